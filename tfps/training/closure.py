"""One closure: what a worker runs in one go. Pull dense variables, run some steps, push what they changed.

The path of a closure: (1) one buffer of dense variables comes from each server; (2) each step takes a batch from the
worker's own iterator (or the batch the chief fed), looks its rows up and pushes their gradients; where rows are
prefetched, those of the next batch are asked for while this one computes, before its push; (3) one buffer of
dense deltas goes back to each server, and (4) the number of steps, the metric sums and the logs go to the chief as one
vector. With overlap, (1) and (3) happen several times, beside the steps.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfps import step
from tfps.embedding.push_dedup import PUSHES, PushId, PushLedger
from tfps.strategy.variables import DenseVariable, SumVariable
from tfps.training.asynchronous.spans import train_spans
from tfps.training.asynchronous.turns import Turns, steps_of_turn
from tfps.training.batches import of_one_shape, one_by_one
from tfps.training.exchange import Exchange, local_copy
from tfps.training.geo.drift import DRIFT_LANES, Drift
from tfps.training.geo.overlapped import Overlapped
from tfps.training.geo.whole_window import WholeWindow, WindowMethods
from tfps.training.geo.window import Window, WindowMode, train_one
from tfps.training.hoisting import DirectLookups, Recording
from tfps.training.lanes import lanes, pack
from tfps.training.order import Order


@dataclasses.dataclass(frozen=True)
class Program:
    """What the steps of a closure are made of.

    Args:
        run: a step: takes a batch and returns its logs as float32 scalars by name; none where metric state gives them.
        variables: dense variables that cross.
        sums: metric state that comes back.
        scales: shard of a variable's delta that is pushed, by key, 1 where there is none.
        updates: whether steps change the variables; without, nothing is pushed.
        turn: steps of a turn of its loop at most.
        prefetches: whether rows of the next batch are asked for while a step computes: they miss that step's update.
        window: how the steps of a closure train on rows of their own, where they do (GEO).
        overlaps: whether a closure has several windows, or spans, and exchanges one while it trains another.
        window_methods: of a model that trains a whole window in place of its steps; None for all others.
        ledgers: of the pushes of rows and of dense variables, so that none counts twice; None where nothing is pushed.
    """

    run: Callable[[Any], Mapping[str, Any]]
    variables: list[DenseVariable]
    sums: list[SumVariable]
    scales: Mapping[Hashable, float]
    updates: bool
    turn: int
    prefetches: bool = False
    window: WindowMode | None = None
    overlaps: bool = False
    window_methods: WindowMethods | None = None
    ledgers: tuple[PushLedger, PushLedger] | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """What a closure returns.

    Args:
        steps: batches it took.
        sums: what it added to each metric state, in the order of the program.
        logs: the last step's logs by name.
        drift: of a window (GEO), what it has moved; None for every other closure.
    """

    steps: int
    sums: list[Any]
    logs: dict[str, float]
    drift: Drift | None = None


class Closure:
    """Traces the closures of one program and reads their results.

    Attributes:
        contributes: whether its steps give their gradients away.
        operations: of a step; 0 before one is traced.
    """

    contributes = False

    def __init__(self, program: Program) -> None:
        self._program = program
        self._log_names: list[str] = []
        self.operations = 0
        self._recording: Recording | None = None

    def asked(self, examples: int | None) -> dict[str, int | None]:
        """Ids that one step asks for, by table, as far as they are known; nothing before a step was traced.

        Args:
            examples: of a batch, where they are known and not part of its shape.
        """
        return {} if self._recording is None else self._recording.asked(examples)

    def over_iterator(self, next_batch: Callable[[], Any], order: Order) -> Any:
        """Graph of up to `order.steps` steps.

        Args:
            next_batch: gives the next batch as a `tf.experimental.Optional`, empty at the end of the input.
            order: of the chief.

        Returns:
            The result as a float32 vector.
        """
        exchange, copies = self._begin(order.shard)
        first = next_batch()
        if self._program.window is not None:
            if self._program.overlaps:
                return self._overlapped(exchange, copies, next_batch, first, order)
            window, logs = self._window(copies, first.element_spec)
            count = window.read(next_batch, first, order.steps)
            last, drift = train_one(window, count, self._push_ids(order, count)[0])
            return self._end(exchange, copies, order, count, last, drift)
        run = functools.partial(self._run, copies)
        recording = self._record(run, first.element_spec)
        size = steps_of_turn(self.operations, self._program.turn)
        turns = Turns(recording, run, lambda done: self._push_ids(order, done)[0], size, self._program.prefetches)
        state = turns.begun(next_batch, first, order)
        if self._program.overlaps:
            state = train_spans(turns, state, exchange, lambda done: self._push_ids(order, done)[1], order)
            return self._result(copies, state["done"], state["logs"])
        state = turns.train(state, order.steps)
        return self._end(exchange, copies, order, state["done"], state["logs"])

    def over_batches(self, batches: list[Any], order: Order) -> Any:
        """Graph of one step a batch; returns the result as a float32 vector."""
        exchange, copies = self._begin(order.shard)
        batches = of_one_shape(batches)
        if self._program.window is not None:
            if self._program.overlaps and len(batches) > 1:
                next_batch = one_by_one(batches)
                return self._overlapped(exchange, copies, next_batch, next_batch(), order)
            window, _ = self._window(copies, batches[0])
            count = window.take(batches)
            last, drift = train_one(window, count, self._push_ids(order, count)[0])
            return self._end(exchange, copies, order, count, last, drift)
        run = functools.partial(self._run, copies)
        recording = self._record(run, batches[0])
        logs: Any = None
        for number, batch in enumerate(batches, 1):
            logs = run(recording.lookups(batch), batch, push_id=self._push_ids(order, number)[0])
        return self._end(exchange, copies, order, tf.constant(len(batches), tf.int64), logs)

    def read(self, vector: Any) -> Result:
        """The result that a closure returned, on the chief."""
        values = np.asarray(vector)
        steps = int(values[:2].view(np.int64)[0])
        sums, at = [], 2
        for variable in self._program.sums:
            size = variable.shape.num_elements()
            end = at + lanes(size, variable.dtype)
            sums.append(_as(values[at:end], variable))
            at = end
        drift = None
        if self._program.window is not None:
            drift, at = Drift.read(values[at : at + DRIFT_LANES], steps), at + DRIFT_LANES
        return Result(steps, sums, dict(zip(self._log_names, values[at:].tolist(), strict=True)), drift)

    def _overlapped(
        self, exchange: Exchange, copies: dict[Hashable, Any], next_batch: Callable[[], Any], first: Any, order: Order
    ) -> Any:
        window, logs = self._window(copies, first.element_spec)
        windows = Overlapped(window, logs, exchange, functools.partial(self._push_ids, order))
        return self._result(copies, *windows.train(next_batch, first, order))

    def _begin(self, worker: Any) -> tuple[Exchange, dict[Hashable, Any]]:
        window = self._program.window
        capped = window.capped if window is not None else ()
        exchange = Exchange(self._program.variables, self._program.scales, worker, capped)
        exchange.pull()
        copies = dict(exchange.copies)
        for variable in self._program.sums:
            copies[variable.key] = local_copy(variable)
            tf.raw_ops.AssignVariableOp(resource=copies[variable.key], value=tf.zeros(variable.shape, variable.dtype))
        return exchange, copies

    def _end(
        self, exchange: Exchange, copies: dict[Hashable, Any], order: Order, steps: Any, logs: Any, drift: Any = None
    ) -> Any:
        if self._program.updates:
            exchange.push(self._push_ids(order, steps)[1])
        return self._result(copies, steps, logs, drift)

    def _result(self, copies: dict[Hashable, Any], steps: Any, logs: Any, drift: Any = None) -> Any:
        sums = [tf.raw_ops.ReadVariableOp(resource=copies[v.key], dtype=v.dtype) for v in self._program.sums]
        logs = tf.pad(logs, [[0, len(self._log_names) - tf.size(logs)]])  # of no window at all there are none
        return pack([steps, *sums, *([] if drift is None else [drift]), logs])

    def _push_ids(self, order: Order, done: Any) -> tuple[PushId | None, PushId | None]:
        """Of the pushes of rows and of dense variables after so many steps of a closure."""
        if self._program.ledgers is None:
            return None, None
        rows, dense = self._program.ledgers
        number = order.first + tf.cast(done, tf.int64)
        return PushId(rows, order.shard, number * PUSHES), PushId(dense, order.shard, number)

    def _run(
        self,
        copies: dict[Hashable, Any],
        lookups: DirectLookups,
        batch: Any,
        stand_ins: Any = None,
        push_id: PushId | None = None,
    ) -> Any:
        """One step; returns its logs as a float32 vector."""
        return self._traced(step.Step(lookups, copies, stand_ins, self.contributes, push_id), batch)

    def _record(self, run: Callable[..., Any], spec: Any) -> Recording:
        self._recording = recording = Recording(run, spec)
        self.operations = recording.operations
        return recording

    def _window(self, copies: dict[Hashable, Any], spec: Any) -> tuple[Any, Any]:
        """A window without batches, and the logs of one that makes no steps."""
        mode, methods = self._program.window, self._program.window_methods
        assert mode is not None
        if methods is None:
            run = functools.partial(self._run, copies)
            recording = self._record(run, spec)
            return Window(recording, spec, mode, run), tf.zeros(recording.result.shape)

        def lookups(batches: Any) -> Any:
            with step.tracing(step.Step(DirectLookups(), copies)):
                return methods.lookups(batches)

        def train(batches: Any, rows: Any, steps: Any) -> Any:
            with step.tracing(step.Step(DirectLookups(), copies)):
                deltas, logs = methods.train(batches, rows, steps)
                return deltas, self._noted(logs)

        # How many logs there are is known when it is traced, not before.
        return WholeWindow(lookups, train, spec, mode), tf.compat.v1.placeholder_with_default(tf.zeros([0]), [None])

    def _traced(self, traced: step.Step, batch: Any) -> Any:
        with step.tracing(traced):
            return self._noted(self._program.run(batch))

    def _noted(self, logs: Mapping[str, Any]) -> Any:
        """Logs as a float32 vector, whose names are kept."""
        self._log_names = sorted(logs)
        return tf.stack(
            [tf.cast(tf.reshape(logs[name], []), tf.float32) for name in self._log_names] or [tf.zeros([])]
        )[: len(logs)]


def _as(values: Any, variable: SumVariable) -> Any:
    dtype = variable.dtype.as_numpy_dtype
    narrow = lanes(1, variable.dtype) == 1 and np.dtype(dtype).itemsize != 4
    return (values.astype(dtype) if narrow else values.copy().view(dtype)).reshape(variable.shape)
