"""The traced closures of one model, by kind of input.

A kind of input is its `element_spec`: datasets of one kind share the graph, which is given the iterator to read.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import tensorflow as tf

from tfps.inputs.epoch import Epoch, Source
from tfps.inputs.iterators import WorkerIterator
from tfps.runtime.losses import WorkerLostError
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.batches import WorkerBatches
from tfps.training.closure import Closure, Floats, Program, Result
from tfps.training.mode import Mode
from tfps.training.order import LENGTH, Order
from tfps.types import Nest

_NUMBERS = itertools.count()

ProgramOf: TypeAlias = Callable[[Nest], Program]
"""Makes the program of closures whose batches are like the given specs, or like the given batch."""


class TracedClosures:
    """Traces closures when a kind of input is first seen; runs and reads them.

    Args:
        strategy: whose workers run them.
        mode: says what a closure is.
        program: makes the steps of a closure.

    Attributes:
        by_iterator: graphs by the kind of iterator that they read.
        on_batches: the function over batches that the chief feeds; it is traced for each number and shape of them.
        last: what traced the last closure; None before the first. It reads the results of all, as the layout of a
            result follows from the model.

    Threading: iterators are started, and graphs over them traced, in the main thread; over fed batches in the threads
    of the pool, while others read results.
    """

    def __init__(self, strategy: ParameterServerStrategy, mode: Mode, program: ProgramOf) -> None:
        self._strategy, self._mode, self._program = strategy, mode, program
        self.by_iterator: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {}
        self.on_batches = tf.function(self._trace_batches, autograph=False, reduce_retracing=True)
        self.last: Closure | None = None
        # By the text of an `element_spec`: the name of its iterators, and the steps of a turn that their graph has.
        self._kinds: dict[str, tuple[str, int]] = {}
        self._variables = strategy.remote_variables.make_owned(self)

    @property
    def operations(self) -> int:
        """Operations of one step; 0 before one is traced."""
        return 0 if self.last is None else self.last.operations

    def ids_per_step(self, examples: int | None) -> Mapping[str, int | None]:
        """Ids that one step looks up, by table; nothing before a step was traced. See `Closure.ids_per_step`."""
        return {} if self.last is None else self.last.ids_per_step(examples)

    def over_iterator(self, iterator: WorkerIterator, order: Order) -> tf.Tensor:
        """Runs a closure over an iterator, on the worker of the calling context."""
        return self.by_iterator[iterator.kind](order.tensor(), iterator.handle)

    def over_batches(self, batches: Sequence[Nest], order: Order) -> tf.Tensor:
        """Runs a closure over batches of the chief, on the worker of the calling context."""
        return self.on_batches(order.tensor(), batches)

    def read(self, vector: Floats) -> Result:
        """Reads what a closure returned."""
        assert self.last is not None  # it was traced before it ran
        return self.last.read(vector)

    def start(self, epoch: Epoch) -> None:
        """Starts the workers' iterators over an epoch that they read, and traces what is new, before any closure runs.

        Cost: a call to each worker, one after the other.
        """
        # An epoch that was interrupted may have left closures that still push.
        self._strategy.pool.wait_for_abandoned(self._strategy.closure_timeout_s)
        if not epoch.source.is_fed and not epoch.hosts:
            epoch.begin()
            for shard in range(self._strategy.num_workers):
                self.start_shard(epoch, shard)

    def start_shard(self, epoch: Epoch, shard: int) -> None:
        """Starts the iterator of a shard, or continues it on another worker after the batches that were trained."""
        while True:
            host = self._strategy.host_of(shard)
            # On another worker it is of a kind of its own: what a graph keeps there, that worker's own shard has too.
            kind = self._iterator_kind(epoch.source, "" if host == shard else f"_{shard}")
            try:
                self._strategy.pool.call(host, functools.partial(epoch.start, shard, host, kind))
                iterator = epoch.iterators[shard]
                self._strategy.pool.threads[host].drop_after(iterator, iterator.handle)
                return
            except WorkerLostError:
                continue

    def _iterator_kind(self, source: Source, suffix: str) -> str:
        """The kind of the iterators over an input; their closures are traced when this returns.

        They are traced once more where an input is so much longer that its closures have longer turns.
        """
        spec, turn = source.element_spec, self._mode.turn_steps(source.max_batches)
        kind, traced_for = self._kinds.get(repr(spec), ("", 0))
        # A new name means a new graph and new iterators; those of the old name are not used again.
        if traced_for < turn:
            kind = f"tfps_input_{next(_NUMBERS)}"
            self._kinds[repr(spec)] = kind, turn
        kind += suffix
        if kind not in self.by_iterator:
            self.by_iterator[kind] = self._trace_iterator(kind, spec, turn)
        return kind

    def _trace_iterator(self, kind: str, spec: Nest, turn: int) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        @tf.function(autograph=False)
        def trace(order: tf.Tensor, iterator: tf.Tensor) -> tf.Tensor:
            source = WorkerBatches(WorkerIterator(kind, iterator), spec)
            closure = self._mode.closure(self._program(spec), turn)
            result = closure.over_iterator(source, Order.read(order))
            self._on_traced(closure)
            return result

        return trace.get_concrete_function(tf.TensorSpec([LENGTH], tf.int64), tf.TensorSpec([], tf.resource))

    def _trace_batches(self, order: tf.Tensor, batches: Sequence[Nest]) -> tf.Tensor:
        closure = self._mode.closure(self._program(batches[0]), 1)
        result = closure.over_batches(batches, Order.read(order))
        self._on_traced(closure)
        return result

    def _on_traced(self, closure: Closure) -> None:
        """Called at the end of a trace, in its graph."""
        self._variables.add_graph(tf.compat.v1.get_default_graph())
        self.last = closure
