"""The input of all workers: one dataset, of which each element is seen by exactly one worker.

A dataset made of `tf.data` operations alone is shipped: its graph goes to the workers, and each reads its shard there.
Where that cannot be (Python generators, `keras.utils.PyDataset`, resources of the chief, very large arrays in memory)
the chief reads batches and feeds each to a worker that is free.
"""

import functools
import weakref

import tensorflow as tf

from tfps.inputs.epoch import Epoch
from tfps.inputs.input_shards import InputShards
from tfps.types import Nest

_MAX_KEPT_BYTES = 256 << 20
"""Workers keep a dataset of up to so many bytes, data in memory included, for the next `fit` of it."""

_SHARDS = "_tfps_input_shards"
"""Attribute of a dataset: (weak reference to the strategy, `InputShards`). They go when the dataset does."""


class WorkerInput:
    """A dataset of batches for all workers. Iterating over it starts an epoch.

    Threading: the main thread.

    Args:
        dataset: of batches.
        devices: of the workers.
        owner: the strategy of these workers. If it was given this very dataset before, the workers have it still.

    Attributes:
        dataset: of batches.
        devices: of the workers.
        steps_per_epoch: batches an epoch takes; None for all there are.
        num_batches: batches there are, where that is known.
        examples: of a batch, where that is known. The last batch may have fewer.
    """

    def __init__(self, dataset: tf.data.Dataset, devices: list[str], owner: object = None) -> None:
        self.dataset = dataset
        self.devices = devices
        self.steps_per_epoch: int | None = None
        self.num_batches: int | None = None
        self.examples: int | None = None
        self._owner = owner

    @functools.cached_property
    def shards(self) -> InputShards:
        """The datasets of the workers: those of an earlier `fit` of the same dataset, or new ones."""
        kept: InputShards | None
        owner, kept = getattr(self.dataset, _SHARDS, (lambda: None, None))
        if kept is not None and owner() is self._owner and kept.devices == self.devices:
            return kept
        shards = InputShards(self.dataset, self.devices)
        if self._owner is not None and shards.graph is not None and shards.graph.ByteSize() <= _MAX_KEPT_BYTES:
            setattr(self.dataset, _SHARDS, (weakref.ref(self._owner), shards))
        return shards

    @functools.cached_property
    def max_batches(self) -> int | None:
        """Batches that an epoch can have at most; None where nobody knows, or there is no end."""
        number = int(self.dataset.cardinality())
        return number if number >= 0 else None

    @property
    def element_spec(self) -> Nest:
        """Of one batch; Keras builds models from it."""
        return self.dataset.element_spec

    @property
    def is_fed(self) -> bool:
        """Whether the chief reads the batches."""
        return self.shards.graph is None

    def __iter__(self) -> Epoch:
        """Starts an epoch."""
        return Epoch(self)
