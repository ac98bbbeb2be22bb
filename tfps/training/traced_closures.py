"""The traced closures of one model, one for each kind of input.

The kind of an input is its `element_spec`. Datasets of one kind share a graph, which takes the iterator as an argument.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

import tensorflow as tf

from tfps.embedding import row_use, row_version, wire
from tfps.embedding.whole import WHOLE_SUFFIX
from tfps.inputs.epoch import Epoch, Source
from tfps.inputs.iterators import WorkerIterator
from tfps.runtime.losses import WorkerLostError
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.batches import WorkerBatches
from tfps.training.closure import Closure, Floats, Program, Result, UnpulledError
from tfps.training.mode import Mode
from tfps.training.order import LENGTH, Order
from tfps.training.shard_layouts import ShardLayouts
from tfps.training.turns import steps_of_turn
from tfps.training.worker_caches import WorkerCaches
from tfps.types import Nest

_NUMBERS = itertools.count()
_OWNERS = itertools.count()
T = TypeVar("T")

SHORT_STEPS = 512
"""The number of steps that a model is trained for by graphs of short turns.

Such a graph is traced and started a second or two sooner; that of long turns takes a few milliseconds less for each
step. For fewer steps the first gains more. It is also when further workers join, which then start the second one alone.
"""

ProgramOf: TypeAlias = Callable[[Nest], Program]
"""Creates the program for batches that match the given specs or the given batch."""


def retrace(trace: Callable[[], T]) -> T:
    """Calls `trace` again as long as its program had to learn of another variable, and returns its result."""
    while True:
        try:
            return trace()
        except UnpulledError:
            continue


class TracedClosures:
    """Traces closures when a kind of input is first seen, runs them and reads their results.

    Args:
        strategy: the strategy whose workers run the closures.
        mode: creates the closures to trace.
        program: creates the steps of a closure.
        trainable: returns what steps train now. Keras applies a change of it with `compile`, which makes new closures.

    Attributes:
        by_iterator: the graphs, by the kind of iterator that they read.
        on_batches: the function over fed batches; it is traced for each number and shape of batches.
        last: the closure that was traced last; None before the first. It can read the results of all others, because
            the layout of a result depends on the model alone, but for the counts by shard (`ShardLayouts`).
        trained: the number of steps that these graphs have run so far, which whoever counts them adds up here.

    Threading: the main thread starts iterators and traces graphs over them. Graphs over fed batches are traced in the
    threads of the pool, while other threads may read results.
    """

    def __init__(
        self,
        strategy: ParameterServerStrategy,
        mode: Mode,
        program: ProgramOf,
        trainable: Callable[[], object] = lambda: None,
    ) -> None:
        self._strategy, self._mode, self._program, self._trainable = strategy, mode, program, trainable
        # What the graph that was traced first trains.
        self._traced_trainable: object = None
        self.by_iterator: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {}
        self.on_batches = tf.function(self._trace_batches, autograph=False, reduce_retracing=True)
        self.last: Closure | None = None
        # Maps the text of an `element_spec` to the kind of its iterators and the steps in a turn of their graph.
        self._kinds: dict[str, tuple[str, int]] = {}
        self.trained = 0
        # The kinds whose graph has shorter turns than it may have, and graphs that closures under way may still run.
        self._short: set[str] = set()
        self._replaced: list[object] = []
        # Of one server there is none that could be hotter than the others.
        self._layouts = ShardLayouts() if mode.trains and strategy.num_servers > 1 else None
        self._variables = strategy.remote_variables.make_owned(self)
        # The errors that workers keep for pushes with fewer bytes, and the version of the rows that they belong to.
        self._owner_of_errors = f"closures_{next(_OWNERS)}"
        self._rows_version = row_version.current()
        size = strategy.cache_size if mode.may_cache_rows else None
        self._caches = WorkerCaches(size, self._variables, strategy.worker_devices)

    @property
    def operations(self) -> int:
        """The number of operations in one step; 0 before a step is traced."""
        return 0 if self.last is None else self.last.operations

    def ids_per_step(self, examples: int | None) -> Mapping[str, int | None]:
        """Counts the ids that one step looks up, by table; empty before a step is traced. See `Closure`."""
        return {} if self.last is None else self.last.ids_per_step(examples)

    def over_iterator(self, iterator: WorkerIterator, order: Order) -> tf.Tensor:
        """Runs a closure over an iterator, on the worker of the calling context."""
        return self.by_iterator[iterator.kind](self._caches.stamp(order).tensor(), iterator.handle)

    def over_batches(self, batches: Sequence[Nest], order: Order) -> tf.Tensor:
        """Runs a closure over fed batches, on the worker of the calling context."""
        return retrace(lambda: self.on_batches(self._caches.stamp(order).tensor(), batches))

    def read(self, vector: Floats) -> Result:
        """Parses the vector that a closure returned."""
        # A closure is traced before it runs.
        assert self.last is not None
        return self.last.read(vector)

    def forget_whole_tables(self) -> None:
        """Destroys the workers' copies of whole tables, before and after each call that may read tables whole."""
        self._variables.destroy_ending_in(WHOLE_SUFFIX)

    def start(self, epoch: Epoch) -> None:
        """Starts the workers' iterators over an epoch, and traces new kinds of input before any closure runs.

        Cost: one call to each worker, one after the other.
        """
        # The closures of an interrupted epoch may still push.
        self._strategy.pool.wait_for_abandoned(self._strategy.closure_timeout_s)
        self._forget_errors()
        if not epoch.source.is_fed and not epoch.hosts:
            epoch.begin(alone=epoch.source.in_turn and self._mode.begins_alone())
            self.start_shards(epoch)
        self._drop_replaced(epoch)

    def _drop_replaced(self, epoch: Epoch) -> None:
        """Drops graphs that no closure will run again, when none is under way."""
        self._replaced.clear()
        # An input that goes on in a further epoch keeps its iterators, and so the names of its graphs.
        names = {name for name, _ in self._kinds.values()} | {one.kind for one in epoch.iterators.values()}
        # A graph for a shard on another worker has the number of the shard behind the name.
        for kind in [one for one in self.by_iterator if not {one, one.rpartition("_")[0]} & names]:
            del self.by_iterator[kind]
            self._short.discard(kind)

    def _forget_errors(self) -> None:
        """Destroys the errors that wait for the next push, if rows were changed in another way since the last epoch.

        They belong to values that the model had before. After a restored checkpoint they may be larger than it.
        """
        version = row_version.current()
        if version != self._rows_version:
            self._rows_version = version
            self._variables.destroy_ending_in(wire.ERRORS_SUFFIX)

    def start_shards(self, epoch: Epoch) -> None:
        """Starts the iterators of an epoch that has begun or was divided."""
        for shard in epoch.to_start:
            self.start_shard(epoch, shard)

    def start_shard(self, epoch: Epoch, shard: int) -> None:
        """Starts the iterator of a shard. After a loss it skips the batches that were trained."""
        while True:
            host = self._strategy.host_of(shard)
            # On another worker it needs a kind of its own: that worker's own shard uses the same names in its graph.
            kind = self._iterator_kind(epoch.source, "" if host == shard else f"_{shard}")
            try:
                self._strategy.pool.call(host, functools.partial(epoch.start, shard, host, kind))
                iterator = epoch.iterators[shard]
                self._strategy.pool.threads[host].drop_after(iterator, iterator.handle)
                return
            except WorkerLostError:
                # By now `host_of` names another worker.
                continue

    def _iterator_kind(self, source: Source, suffix: str) -> str:
        """Returns the kind of the iterators over an input, and traces its closures if that was not done.

        They are traced again for an input that is so much longer that its closures have longer turns.
        """
        spec, most = source.element_spec, self._mode.turn_steps(source.max_batches)
        turn = most if self.trained >= SHORT_STEPS else min(most, self._mode.first_turn_steps(source.max_batches))
        kind, traced_for = self._kinds.get(repr(spec), ("", 0))
        # A new name gets a new graph and new iterators; those of the old name are not used again.
        if traced_for < turn and (not kind or self._trains_the_same()):
            kind = f"tfps_input_{next(_NUMBERS)}"
            self._kinds[repr(spec)] = kind, turn
        kind += suffix
        if kind not in self.by_iterator:
            # Of another shard, after a loss: as long as the turns of this kind have become.
            turn = self._kinds[repr(spec)][1]
            self.by_iterator[kind] = self._trace_iterator(kind, spec, turn)
            # Of a large step, the graph for long turns would be the same.
            if steps_of_turn(self.operations, turn) < steps_of_turn(self.operations, most):
                self._short.add(kind)
            else:
                self._kinds[repr(spec)] = self._kinds[repr(spec)][0], max(turn, most)
        return kind

    def lengthen_turns(self, epoch: Epoch) -> None:
        """Traces the graphs of an epoch again for long turns, once the model was trained for a while.

        Closures that begin after that use the new graphs. The numbers that they compute are the same.

        Args:
            epoch: an epoch that has begun.
        """
        # This runs after each step: first what costs nothing, and mostly ends it.
        if not self._short or self.trained < SHORT_STEPS:
            return
        source = epoch.source
        left = None if source.num_batches is None else source.num_batches - sum(epoch.taken)
        # The next epoch traces them if this one is nearly over. With `steps_per_epoch` the iterators may go on in
        # further epochs, which trace nothing; then more than all batches of one epoch are taken.
        if left is not None and 0 <= left < SHORT_STEPS:
            return
        kinds = {iterator.kind for iterator in epoch.iterators.values()} & self._short
        self._short -= kinds
        if not kinds or not self._trains_the_same():
            return
        spec, turn = source.element_spec, self._mode.turn_steps(source.max_batches)
        self._kinds[repr(spec)] = self._kinds[repr(spec)][0], turn
        for kind in kinds:
            # TensorFlow must not delete the functions of a graph that runs.
            self._replaced.append(self.by_iterator[kind])
            self.by_iterator[kind] = self._trace_iterator(kind, spec, turn)

    def _trains_the_same(self) -> bool:
        """Whether a graph that is traced now would train what the first graph does.

        If not, it would change a `fit` in its middle, or fail: the optimizer may not know a variable.
        """
        return self._trainable() == self._traced_trainable

    def _trace_iterator(self, kind: str, spec: Nest, turn: int) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        @tf.function(autograph=False)
        def trace(order: tf.Tensor, iterator: tf.Tensor) -> tf.Tensor:
            source = WorkerBatches(WorkerIterator(kind, iterator), spec)
            closure = self._closure(spec, turn)
            received = Order.read(order)
            with self._rows_for_training(), self._caches.in_closure(received):
                result = closure.over_iterator(source, received)
            self._on_traced(closure)
            return result

        # Traced right here, in the main thread, and not at the first call in a thread of the pool.
        specs = tf.TensorSpec([LENGTH], tf.int64), tf.TensorSpec([], tf.resource)
        traced = retrace(lambda: trace.get_concrete_function(*specs))
        if self._traced_trainable is None:
            self._traced_trainable = self._trainable()
        return traced

    def _trace_batches(self, order: tf.Tensor, batches: Sequence[Nest]) -> tf.Tensor:
        # Each fed batch has its own copy of the step in the graph, so there are no turns.
        closure = self._closure(batches[0], 1)
        received = Order.read(order)
        with self._rows_for_training(), self._caches.in_closure(received):
            result = closure.over_batches(batches, received)
        self._on_traced(closure)
        return result

    def _closure(self, spec: Nest, turn: int) -> Closure:
        """Creates a closure over batches like `spec`, whose results all others can read."""
        closure = self._mode.closure(self._program(spec), turn)
        closure.layouts = self._layouts
        return closure

    @contextlib.contextmanager
    def _rows_for_training(self) -> Iterator[None]:
        """Says, within, whether rows will be updated, and how they cross the network. Evaluation reads them exactly."""
        # The setting is read here because users may change it before a graph is traced.
        wire_of_mode = self._strategy.wire if self._mode.trains else wire.FLOAT32
        with row_use.training(self._mode.trains), wire.using(wire_of_mode, self._owner_of_errors):
            yield

    def _on_traced(self, closure: Closure) -> None:
        """Stores a closure; called at the end of its trace, inside its graph."""
        # The graph names variables of the worker, which are destroyed together with this object.
        self._variables.add_graph(tf.compat.v1.get_default_graph())
        self.last = closure
