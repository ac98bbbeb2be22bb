"""`InputShards`: the shards of one dataset. Each worker has the graph of its part of the input."""

import logging

import tensorflow as tf

from tfps.cluster.connection import add_user
from tfps.inputs.iterators import element_types, make_worker_dataset
from tfps.inputs.sharding import cut_shard, split_by_file
from tfps.inputs.shipping import make_shippable_graph
from tfps.types import Nest

_LOG = logging.getLogger("tfps")


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

    Attributes:
        devices: the device of each worker.
        element_spec: the structure of one batch: the shape and dtype of each tensor.
        graph: the graph of the dataset; None if it cannot leave the chief.
        by_file: whether shards are whole files.
        epochs: the number of epochs that have begun on the workers.
    """

    def __init__(
        self,
        dataset: tf.data.Dataset,
        devices: list[str],
        whole_files: bool = True,
        folder: str | None = None,
    ) -> None:
        self.devices = devices
        self.element_spec: Nest = dataset.element_spec
        self.graph = make_shippable_graph(dataset, len(devices), whole_files, folder)
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
        self._sent: dict[int, tf.Tensor] = {}
        add_user(self)

    def serves(self, whole_files: bool, folder: str | None) -> bool:
        """Whether shards that are made with these arguments would be the same."""
        return folder == self._folder and (self.by_file == whole_files or not self._has_files)

    def release(self) -> None:
        """Drops the datasets on the workers when the connection ends."""
        self._sent.clear()

    def dataset_on_worker(self, shard: int) -> tf.Tensor:
        """Returns the shard of one worker as a dataset on that worker, a variant scalar. The first call sends it."""
        if shard not in self._sent:
            graph = self._make_shard_graph(shard)
            with tf.device(self.devices[shard]):
                self._sent[shard] = make_worker_dataset(tf.raw_ops.DatasetFromGraph(graph_def=graph), self.element_spec)
        return self._sent[shard]

    def make_remaining_on(self, shard: int, device: str, taken: int) -> tf.Tensor:
        """Makes a dataset with the rest of a shard on another worker, and returns it, a variant scalar.

        Args:
            shard: the number of the shard.
            device: the device of the worker that resumes the shard.
            taken: the number of trained batches, which the dataset skips.
        """
        # Not kept in `_sent`, which has the datasets on the shards' own workers: only one epoch needs this one.
        graph = self._make_shard_graph(shard)
        with tf.device(None):
            count = tf.constant(taken, tf.int64)
        with tf.device(device):
            whole = tf.raw_ops.DatasetFromGraph(graph_def=graph)
            remaining = tf.raw_ops.SkipDataset(input_dataset=whole, count=count, **element_types(self.element_spec))
            return make_worker_dataset(remaining, self.element_spec)

    def _make_shard_graph(self, shard: int) -> tf.Tensor:
        """Returns the serialised graph of a shard, a string tensor on the chief."""
        # The chief's device on purpose: a constant on a worker's device is sent while its constructor holds Python's
        # lock, and all threads of the chief would wait for a large dataset to cross.
        with tf.device(None):
            return tf.constant(cut_shard(self.graph, len(self.devices), shard, self.by_file))
