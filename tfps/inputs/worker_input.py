"""`WorkerInput`: one dataset for all workers. Each batch goes to exactly one worker.

A dataset that consists of `tf.data` operations is shipped: its graph goes to the workers, and each worker reads its
shard. Other datasets (Python generators, `keras.utils.PyDataset`, resources of the chief, very large arrays in memory)
are fed: the chief reads the batches and sends each to a free worker.
"""

import functools
import weakref

import tensorflow as tf

from tfps.inputs.epoch import Epoch
from tfps.inputs.input_shards import InputShards
from tfps.inputs.place import Place
from tfps.types import Nest

_MAX_KEPT_BYTES = 256 << 20
"""The largest dataset, data in memory included, that workers keep for the next `fit` on it."""

_SHARDS = "_tfps_input_shards"
"""The attribute of a dataset for (weak reference to the strategy, `InputShards`). It ends with the dataset."""


class WorkerInput:
    """A dataset of batches for all workers. Iterating over it starts an epoch.

    Threading: the main thread.

    Args:
        dataset: a dataset of batches.
        devices: the device of each worker.
        owner: the strategy of these workers. If the same strategy has used the same dataset before, the workers still
            have it.
        folder: the folder in which workers look relative file names up; None for the folder of each worker.

    Attributes:
        dataset: the dataset of batches.
        devices: the device of each worker.
        steps_per_epoch: the number of batches in an epoch; None for all batches of the dataset.
        num_batches: the number of batches in the dataset; None if it is unknown.
        examples: the number of examples in a batch; None if it is unknown. The last batch may have fewer.
    """

    def __init__(
        self, dataset: tf.data.Dataset, devices: list[str], owner: object = None, folder: str | None = None
    ) -> None:
        self.dataset = dataset
        self.devices = devices
        self.steps_per_epoch: int | None = None
        self.num_batches: int | None = None
        self.examples: int | None = None
        self._owner, self._folder = owner, folder
        self._place: Place | None = None
        self._handed = 0

    def go_on_at(self, place: Place, handed: int) -> None:
        """Lets the next epoch go on at a place that another program has reached.

        Args:
            place: the place.
            handed: the number of steps that the training loop has had of its epoch of `steps_per_epoch` steps.
        """
        self._place, self._handed = place, handed
        # Kept from an earlier `fit` of this program, and with its order of batches.
        if place.order is not None and self.shards.order != place.order:
            del self.shards
            self.dataset.__dict__.pop(_SHARDS, None)

    @functools.cached_property
    def shards(self) -> InputShards:
        """The shard of each worker. A second `fit` on the same dataset uses the shards of the first."""
        earlier: InputShards | None
        owner, earlier = getattr(self.dataset, _SHARDS, (lambda: None, None))
        whole_files = self.steps_per_epoch is None or _wants_whole_files(self.dataset)
        # Shards of an ended strategy are useless: their datasets were on the workers of its cluster.
        if (
            earlier is not None
            and owner() is self._owner
            and earlier.devices == self.devices
            and earlier.serves(whole_files, self._folder)
        ):
            return earlier
        shards = InputShards(
            self.dataset, self.devices, whole_files, self._folder, None if self._place is None else self._place.order
        )
        if self._owner is not None and shards.graph is not None and shards.graph.ByteSize() <= _MAX_KEPT_BYTES:
            setattr(self.dataset, _SHARDS, (weakref.ref(self._owner), shards))
        return shards

    @functools.cached_property
    def max_batches(self) -> int | None:
        """The largest number of batches in an epoch; None if it is unknown or endless."""
        # TensorFlow says -1 for an endless dataset and -2 for an unknown number.
        number = int(self.dataset.cardinality())
        return number if number >= 0 else None

    @property
    def element_spec(self) -> Nest:
        """The structure of one batch: the shape and dtype of each tensor. Keras builds models from it."""
        return self.dataset.element_spec

    @property
    def is_fed(self) -> bool:
        """Whether the chief reads the batches."""
        return self.shards.graph is None

    @property
    def in_turn(self) -> bool:
        """Whether batch i of the input belongs to shard i % N: it is neither fed nor split by file."""
        return not self.is_fed and not self.shards.by_file

    def __iter__(self) -> Epoch:
        """Starts an epoch."""
        place, self._place = self._place, None
        handed, self._handed = self._handed, 0
        return Epoch(self, place, handed)


def _wants_whole_files(dataset: tf.data.Dataset) -> bool:
    """Whether the user chose shards of whole files, by TensorFlow's option for that."""
    policy = dataset.options().experimental_distribute.auto_shard_policy
    return bool(policy == tf.data.experimental.AutoShardPolicy.FILE)
