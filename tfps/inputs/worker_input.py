"""One dataset, all workers: each element is seen by exactly one of them.

A dataset made of `tf.data` operations alone is shipped: its graph goes to the workers, which iterate over their shard
there. Where that cannot be (Python generators, `keras.utils.PyDataset`, resources of the chief, very large arrays in
memory) the chief iterates and feeds batches to whichever worker is free.
"""

import collections
import contextlib
import functools
import weakref
from typing import Any

import tensorflow as tf
from tensorflow.python.data.ops import dataset_ops, iterator_ops  # an iterator found by name is not public
from tensorflow.python.data.util import structure

from tfps.cluster import devices
from tfps.inputs.shipping import shard_of, shippable_graph, without_devices
from tfps.runtime.losses import WorkerLostError

_PREFETCH = 4
"""Batches a worker reads ahead."""

_MAX_KEPT_BYTES = 256 << 20
"""A dataset of up to so many bytes, data in memory included, stays with the workers for the next `fit`."""

_KEPT = "_tfps_input_shards"


class InputShards:
    """What the workers have of a dataset: each the graph of its shard, sent when it is first asked for.

    Args:
        dataset: of batches.
        devices: of the workers.

    Attributes:
        devices: of the workers.
        element_spec: of one batch.
        graph: of the dataset; None where it cannot leave the chief.
        epochs: how often an iterator over it was begun on the workers.
    """

    def __init__(self, dataset: Any, devices: list[str]) -> None:
        self.devices = devices
        self.element_spec = dataset.element_spec
        self.graph = shippable_graph(dataset, len(devices))
        self.epochs = 0
        self._sent: dict[int, Any] = {}

    def on_its_worker(self, shard: int) -> Any:
        """One worker's shard, as a tensor on that worker; made at the first call."""
        if shard not in self._sent:
            graph = self._of(shard)
            with tf.device(self.devices[shard]):
                self._sent[shard] = _read_ahead(tf.raw_ops.DatasetFromGraph(graph_def=graph), self.element_spec)
        return self._sent[shard]

    def rest_on(self, shard: int, device: str, taken: int) -> Any:
        """The same on a device of another worker, without the batches that were taken of it."""
        graph = self._of(shard)
        with tf.device(None):
            count = tf.constant(taken, tf.int64)
        with tf.device(device):
            whole = tf.raw_ops.DatasetFromGraph(graph_def=graph)
            rest = tf.raw_ops.SkipDataset(input_dataset=whole, count=count, **_kinds(self.element_spec))
            return _read_ahead(rest, self.element_spec)

    def _of(self, shard: int) -> Any:
        """A shard's graph, on the chief: made on a worker's device it would be sent while Python stands still."""
        with tf.device(None):
            return tf.constant(shard_of(self.graph, len(self.devices), shard))


class WorkerInput:
    """A dataset of batches for all workers; iterate over it to start an epoch.

    Args:
        dataset: of batches.
        devices: of the workers.
        owner: whose workers they are. Where it has had this very dataset before, the workers have it still.

    Attributes:
        steps_per_epoch: batches an epoch takes; None for all there are.
        num_batches: batches there are, where that is known.
        examples: of a batch, where that is known; the last may have fewer.
    """

    def __init__(self, dataset: Any, devices: list[str], owner: Any = None) -> None:
        self.dataset = dataset
        self.devices = devices
        self.steps_per_epoch: int | None = None
        self.num_batches: int | None = None
        self.examples: int | None = None
        self._owner = owner

    @functools.cached_property
    def shards(self) -> InputShards:
        """What the workers have of it."""
        kept: InputShards | None
        owner, kept = getattr(self.dataset, _KEPT, (lambda: None, None))
        if kept is not None and owner() is self._owner and kept.devices == self.devices:
            return kept
        shards = InputShards(self.dataset, self.devices)
        if self._owner is not None and shards.graph is not None and shards.graph.ByteSize() <= _MAX_KEPT_BYTES:
            # With the dataset, so that it goes when that does.
            setattr(self.dataset, _KEPT, (weakref.ref(self._owner), shards))
        return shards

    @functools.cached_property
    def most_batches(self) -> int | None:
        """Batches that any epoch over it can have; None where nobody knows, or there is no end."""
        number = int(self.dataset.cardinality())
        return number if number >= 0 else None

    @property
    def element_spec(self) -> Any:
        """Of one batch; Keras builds models from it."""
        return self.dataset.element_spec

    @property
    def fed(self) -> bool:
        """Whether the chief iterates."""
        return self.shards.graph is None

    def __iter__(self) -> "Epoch":
        """Starts an epoch."""
        return Epoch(self)


class Epoch:
    """One pass over a `WorkerInput`.

    Attributes:
        source: the input.
        hosts: for each worker's shard of it the worker that iterates over it; empty before that begins.
        names: of their iterators.
        taken: batches of each shard that were trained.
        number: of the pass among those over the same dataset, from 1 on; 0 before it begins.
    """

    def __init__(self, source: WorkerInput) -> None:
        self.source = source
        self.number = 0
        self.hosts: dict[int, int] = {}
        self.names: dict[int, str] = {}
        self.taken = [0] * len(source.devices)
        self._iterator: Any = None

    def __iter__(self) -> "Epoch":
        """Itself."""
        return self

    def __next__(self) -> Any:
        """The next batch, read by the chief."""
        if self._iterator is None:
            self._iterator = iter(of_this_context(self.source.dataset))
        return next(self._iterator)

    def begin(self) -> None:
        """Counts it, before any worker's shard begins."""
        self.source.shards.epochs += 1
        self.number = self.source.shards.epochs

    def start(self, shard: int, host: int, name: str) -> tuple[()]:
        """Makes the iterator of one worker's shard begin: on that worker, or on another that never had it.

        Where it had begun before it goes on after the batches that were taken.
        """
        device, turns = self.source.devices[host], 1
        with tf.device(device):
            if host == shard and shard not in self.hosts:
                dataset = self.source.shards.on_its_worker(shard)
            else:
                dataset = self.source.shards.rest_on(shard, device, self.taken[shard])
                turns = self.number  # not of the passes so far: others may have begun meanwhile, as an evaluation does
            iterator = iterator_handle(name, self.source.element_spec)
            for _ in range(turns):  # a shuffle draws new numbers for each epoch, and has to come to those of this one
                tf.raw_ops.MakeIterator(dataset=dataset, iterator=iterator)
        self.hosts[shard], self.names[shard] = host, name
        return ()


class Iterators:
    """The iterators on the workers. Each is found by its name, so that it has no end of its own.

    Args:
        strategy: whose workers they are.

    Threading: whoever names iterators may be collected in any thread, maybe in the midst of a call; what it named waits
    until the thread that starts epochs asks for it.
    """

    def __init__(self, strategy: Any) -> None:
        self._strategy = weakref.proxy(strategy)
        self._abandoned: collections.deque[dict[tuple[int, str], Any]] = collections.deque()

    def named_by(self, owner: Any) -> dict[tuple[int, str], Any]:
        """Where to note an owner's iterators: by worker and name, the `element_spec`. They go some time after it."""
        named: dict[tuple[int, str], Any] = {}
        weakref.finalize(owner, self._abandoned.append, named).atexit = False
        return named

    def destroy_abandoned(self) -> None:
        """Destroys, on the workers that live, those whose owners are gone."""
        while self._abandoned:
            for (host, name), element_spec in self._abandoned.popleft().items():
                while self._strategy.host_of(host) == host:
                    # The loss may be of another worker, and then it is tried again.
                    with contextlib.suppress(WorkerLostError):
                        self._strategy.pool.call(host, functools.partial(_destroy, name, element_spec))
                        break


def _destroy(name: str, element_spec: Any) -> tuple[()]:
    """Destroys an iterator on the device of the caller. It is emptied first: what ran with it may hold it for ever."""
    iterator, kinds = iterator_handle(name, element_spec), _kinds(element_spec)
    parts = [_none_of(*kind) for kind in zip(kinds["output_types"], kinds["output_shapes"], strict=True)]
    empty = tf.raw_ops.TensorSliceDataset(components=parts, output_shapes=kinds["output_shapes"])
    tf.raw_ops.MakeIterator(dataset=empty, iterator=iterator)
    tf.raw_ops.DestroyResourceOp(resource=iterator)
    return ()


def _none_of(dtype: Any, shape: Any) -> Any:
    dims = [0, *(size or 0 for size in shape or [])]
    return tf.raw_ops.Fill(dims=dims, value=tf.raw_ops.OptionalNone()) if dtype == tf.variant else tf.zeros(dims, dtype)


def of_this_context(dataset: Any) -> Any:
    """The dataset on the chief's device; one made before the strategy connected is on a device that is no more."""
    connected = not devices.is_unconnected(tf.constant(0).device)
    if not connected or not devices.is_unconnected(dataset._variant_tensor.device):
        return dataset
    variant = tf.raw_ops.DatasetFromGraph(graph_def=without_devices(dataset).SerializeToString())
    moved = dataset_ops._VariantDataset(variant, dataset.element_spec)
    moved.made_from = dataset  # keeps the Python functions that its graph calls by name
    return moved


def as_tensor(value: Any) -> Any:
    """A part of a batch of the chief as a tensor; ragged and sparse ones are tensors, and a missing label is None."""
    return value if value is None or tf.is_tensor(value) else tf.convert_to_tensor(value)


def _read_ahead(dataset: Any, element_spec: Any) -> Any:
    """The dataset with some batches read ahead, and without the thread that tunes it.

    An iterator that is replaced waits for that thread, which may sleep for many seconds before it notices.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    kinds = _kinds(element_spec)
    ahead = tf.raw_ops.PrefetchDataset(input_dataset=dataset, buffer_size=_PREFETCH, **kinds)
    serialized = options._to_proto().SerializeToString()
    return tf.raw_ops.OptionsDataset(input_dataset=ahead, serialized_options=serialized, **kinds)


def _kinds(element_spec: Any) -> dict[str, Any]:
    return {
        "output_types": structure.get_flat_tensor_types(element_spec),
        "output_shapes": structure.get_flat_tensor_shapes(element_spec),
    }


def iterator_handle(name: str, element_spec: Any) -> Any:
    """The iterator of that name on the device of the caller."""
    return tf.raw_ops.IteratorV2(shared_name=name, container="", **_kinds(element_spec))


def worker_iterator(name: str, element_spec: Any) -> Any:
    """The worker's iterator as a Python object, inside a closure."""
    return iterator_ops.OwnedIterator(components=[iterator_handle(name, element_spec)], element_spec=element_spec)
