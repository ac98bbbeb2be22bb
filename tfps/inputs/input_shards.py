"""`InputShards`: the shards of one dataset. Each worker has the graph of its part of the input."""

import logging

import tensorflow as tf

from tfps.cluster.connection import add_holder, add_user
from tfps.inputs.iterators import element_types, make_iterator, make_worker_dataset
from tfps.inputs.place import RandomStates, random_states, set_random_states
from tfps.inputs.sharding import cut_shard, split_by_file
from tfps.inputs.shipping import make_shippable_graph
from tfps.types import Nest

_LOG = logging.getLogger("tfps")

WHOLE = -1
"""The whole input, where a shard has a number. The first worker reads it while it trains alone."""


class InputShards:
    """The dataset graph of each worker, which is sent when an epoch first needs it.

    Ownership: a worker keeps its dataset as long as this object lives, data in memory included.
    Threading: the main thread.

    Args:
        dataset: a dataset of batches.
        devices: the device of each worker.
        whole_files: whether shards may be whole files. An epoch of `steps_per_epoch` steps then has other batches than
            in one process, because the shards of files differ in length.
        folder: the folder in which workers look relative file names up; None for the folder of each worker.
        order: the random states that give the order of another program; None for the states of this one.

    Attributes:
        devices: the device of each worker.
        element_spec: the structure of one batch: the shape and dtype of each tensor.
        graph: the graph of the dataset; None if it cannot leave the chief.
        by_file: whether shards are whole files.
        epochs: the number of epochs that have begun on the workers.
        order: the random states from which shuffles without a seed have got one.
    """

    def __init__(
        self,
        dataset: tf.data.Dataset,
        devices: list[str],
        whole_files: bool = True,
        folder: str | None = None,
        order: RandomStates | None = None,
    ) -> None:
        self.devices = devices
        self.element_spec: Nest = dataset.element_spec
        own = random_states()
        self.order = order or own
        if order is not None:
            set_random_states(order)
        self.graph = make_shippable_graph(dataset, len(devices), whole_files, folder)
        # The program goes on with its own numbers.
        if order is not None:
            set_random_states(own)
        self._folder = folder
        self._has_files = self.graph is not None and split_by_file(self.graph, len(devices))
        self.by_file = self._has_files and whole_files
        if self._has_files and not whole_files:
            _LOG.info(
                "each worker reads all files and keeps one batch in %d, so that the steps of an epoch are those of one "
                "process. If an epoch may have other examples, set `experimental_distribute.auto_shard_policy` in the "
                "options of the dataset to `AutoShardPolicy.FILE`: then each worker reads its own files.",
                len(devices),
            )
        self.epochs = 0
        # For each shard, on its own worker: the dataset, the same as iterators over the whole shard read it, and the
        # number of epochs that these iterators have begun.
        self._sent: dict[int, tf.Tensor] = {}
        self._read: dict[int, tf.Tensor] = {}
        self._begun: dict[int, int] = {}
        add_user(self)
        add_holder(self)

    def serves(self, whole_files: bool, folder: str | None) -> bool:
        """Whether shards that are made with these arguments would be the same."""
        return folder == self._folder and (self.by_file == whole_files or not self._has_files)

    def release(self) -> None:
        """Drops the datasets on the workers when the connection ends."""
        for kept in (self._sent, self._read, self._begun):
            kept.clear()

    def forget(self, device: str) -> None:
        """Drops the datasets on a worker that was started again. The next epoch sends them anew."""
        for shard in [shard for shard in self._sent if self.devices[max(0, shard)] == device]:
            for kept in (self._sent, self._read, self._begun):
                kept.pop(shard, None)

    def forget_whole(self) -> None:
        """Drops the whole input on the first worker, which is about to read its own shard of it."""
        for kept in (self._sent, self._read, self._begun):
            kept.pop(WHOLE, None)

    def begin(self, shard: int, epoch: int, taken: int = 0) -> tf.Tensor:
        """Makes an iterator over a shard, or the whole input, on its own worker. The first call sends the dataset.

        Args:
            shard: the number of the shard, or `WHOLE`.
            epoch: the number of the epoch, from 1, whose order of batches is wanted.
            taken: the number of batches that the iterator skips.

        Returns:
            The handle of the iterator.
        """
        device = self.devices[max(0, shard)]
        if shard not in self._sent:
            graph = self._make_shard_graph(shard)
            with tf.device(device):
                self._sent[shard] = tf.raw_ops.DatasetFromGraph(graph_def=graph)
                self._read[shard] = make_worker_dataset(self._sent[shard], self.element_spec)
        begun = self._begun.get(shard, 0)
        # A later epoch may have begun: one of an evaluation in a callback, say.
        if taken or begun >= epoch:
            return self._make_rest(self._sent[shard], device, epoch, taken)
        self._begun[shard] = epoch
        with tf.device(device):
            # A shuffle draws a new order for each epoch, so the iterator also begins those that it has missed.
            return make_iterator(self._read[shard], epoch - begun)

    def begin_elsewhere(self, shard: int, device: str, epoch: int, taken: int) -> tf.Tensor:
        """Makes an iterator over the rest of a shard on another worker, whose dataset only this epoch needs.

        Args:
            shard: the number of the shard, or `WHOLE`.
            device: the device of the worker that resumes the shard.
            epoch: the number of the epoch, from 1, whose order of batches is wanted.
            taken: the number of trained batches, which the iterator skips.

        Returns:
            The handle of the iterator.
        """
        graph = self._make_shard_graph(shard)
        with tf.device(device):
            dataset = tf.raw_ops.DatasetFromGraph(graph_def=graph)
        return self._make_rest(dataset, device, epoch, taken)

    def _make_rest(self, dataset: tf.Tensor, device: str, epoch: int, taken: int) -> tf.Tensor:
        with tf.device(None):
            count = tf.constant(taken, tf.int64)
        with tf.device(device):
            rest = tf.raw_ops.SkipDataset(input_dataset=dataset, count=count, **element_types(self.element_spec))
            # A new dataset counts from its first epoch, although another one may have read the same shard.
            return make_iterator(make_worker_dataset(rest, self.element_spec), epoch)

    def _make_shard_graph(self, shard: int) -> tf.Tensor:
        """Returns the serialised graph of a shard, a string tensor on the chief."""
        # The chief's device on purpose: a constant on a worker's device is sent while its constructor holds Python's
        # lock, and all threads of the chief would wait for a large dataset to cross.
        with tf.device(None):
            workers = 1 if shard == WHOLE else len(self.devices)
            return tf.constant(cut_shard(self.graph, workers, shard, self.by_file))
