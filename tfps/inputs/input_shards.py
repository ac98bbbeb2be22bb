"""The shards of one dataset on the workers: for each worker the graph of its part of the input."""

import tensorflow as tf

from tfps.cluster.connection import add_user
from tfps.inputs.iterators import element_types, worker_dataset
from tfps.inputs.sharding import shard_of
from tfps.inputs.shipping import make_shippable_graph
from tfps.types import Nest


class InputShards:
    """The dataset graph of each worker, sent when an epoch first needs it.

    Ownership: a worker keeps the dataset as long as this object lives; data in memory is part of it.
    Threading: the main thread.

    Args:
        dataset: of batches.
        devices: of the workers.

    Attributes:
        devices: of the workers.
        element_spec: of one batch.
        graph: of the dataset; None where it cannot leave the chief.
        epochs: how often an iterator over it began on the workers.
    """

    def __init__(self, dataset: tf.data.Dataset, devices: list[str]) -> None:
        self.devices = devices
        self.element_spec: Nest = dataset.element_spec
        self.graph = make_shippable_graph(dataset, len(devices))
        self.epochs = 0
        self._sent: dict[int, tf.Tensor] = {}
        add_user(self)

    def release(self) -> None:
        """Lets go of the datasets on the workers, as the connection ends."""
        self._sent.clear()

    def dataset_on_worker(self, shard: int) -> tf.Tensor:
        """The shard of one worker as a dataset there, a variant scalar. The first call sends it."""
        if shard not in self._sent:
            graph = self._graph_of(shard)
            with tf.device(self.devices[shard]):
                self._sent[shard] = worker_dataset(tf.raw_ops.DatasetFromGraph(graph_def=graph), self.element_spec)
        return self._sent[shard]

    def make_remaining_on(self, shard: int, device: str, taken: int) -> tf.Tensor:
        """What remains of a shard, as a dataset on the device of another worker.

        Args:
            shard: its number.
            device: of the worker that continues it.
            taken: batches that were trained, which it skips.
        """
        graph = self._graph_of(shard)
        with tf.device(None):
            count = tf.constant(taken, tf.int64)
        with tf.device(device):
            whole = tf.raw_ops.DatasetFromGraph(graph_def=graph)
            remaining = tf.raw_ops.SkipDataset(input_dataset=whole, count=count, **element_types(self.element_spec))
            return worker_dataset(remaining, self.element_spec)

    def _graph_of(self, shard: int) -> tf.Tensor:
        """The graph of a shard, a string on the chief.

        A constant made on a worker's device is sent while the constructor holds Python's lock, and all threads wait.
        """
        with tf.device(None):
            return tf.constant(shard_of(self.graph, len(self.devices), shard))
