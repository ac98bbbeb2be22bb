"""A closure: what a worker runs in one call. It pulls dense variables, trains some steps and pushes the changes.

The path of a closure: (1) each server sends one buffer of dense variables; (2) the closure takes batches from the
worker's own iterator, or batches that the chief fed, and trains on them; (3) each server gets one buffer of dense
deltas back; (4) the chief gets one vector with the number of steps, the metric sums, the values that the mode measured
and the logs. Each mode of training has a subclass of `Closure`, which decides how (2) and (3) are done.

Threading: graphs over an iterator are traced in the main thread, graphs over fed batches in the thread of a worker.
"""

import abc
import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import tensorflow as tf

from tfps import step
from tfps.embedding import row_cache
from tfps.embedding.push_dedup import PushId
from tfps.embedding.requested_rows import RequestedOfKind
from tfps.stages import EXCHANGE, in_stage
from tfps.strategy.example_buffer import ExampleBuffer, Rows
from tfps.strategy.variables import DenseVariable, SumVariable
from tfps.training.batches import WorkerBatches
from tfps.training.device_batches import count_examples
from tfps.training.device_steps import HOST, DeviceCopies, ThreadState, run_on_devices
from tfps.training.exchange import Exchange, local_copy
from tfps.training.hoisting import Recording, Trace
from tfps.training.lanes import lanes, pack
from tfps.training.order import Int, Order
from tfps.training.shard_layouts import Shard, ShardLayouts
from tfps.training.step_lookups import DeviceLookups, DirectLookups, ReadWhole
from tfps.types import CachedCounts, Nest, VariableKey

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
"""A float32 vector on the chief."""

Copies: TypeAlias = dict[VariableKey, tf.Tensor]
"""Resource handles of a worker's local variables, by variable key."""


_COUNTS = 2
"""The counts behind the logs: examples and unique rows."""

_INTEGERS = 5
"""The int64 numbers before everything else: steps, the layout of counts by shard, and the counts of cached rows."""


class UnpulledError(Exception):
    """A trace met a variable that its closure has not pulled. The program knows it now, so the next trace has it."""


@dataclasses.dataclass(frozen=True)
class Program:
    """The steps that a closure runs, independent of the mode.

    Args:
        run: runs a step: takes a batch and returns values of the step by name, numbers of a fixed static shape, from
            which the chief makes logs.
            It may raise `UnpulledError`.
        variables: the dense variables that the worker pulls.
        sums: the metric variables that a closure counts from zero and sends back.
        workers: the number of workers that run such steps.
        devices: the devices that share the batch of a step on a worker; none if the steps run on its CPU alone.
        thread_state: hands what the trace of a step needs of this thread to another thread.
        buffers: the examples that metrics collect; a closure sends back those of its steps.
    """

    run: Callable[[Nest], Mapping[str, tf.Tensor]]
    variables: Sequence[DenseVariable]
    sums: Sequence[SumVariable]
    workers: int = 1
    devices: Sequence[str] = ()
    thread_state: ThreadState = contextlib.nullcontext
    buffers: Sequence[ExampleBuffer] = ()


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a closure.

    Args:
        steps: the number of batches that it trained.
        sums: the increase of each metric variable, in the order of `Program.sums`.
        logs: the sum over the steps of each value that a step returns, by name: numbers, or float32 arrays.
        measured: the values that the mode measured, float32 [`Closure.measures`]; they are added up over closures.
        examples: the number of examples in its batches.
        unique_rows: the number of rows that its steps requested, each once a step; 0 where a window is trained as a
            whole. Lookups within branches and loops of the model are not counted.
        cached: the requests that the rows on the worker have answered.
        worker: the worker that ran it.
        collected: the examples for each of `Program.buffers`.
        shard_rows: the rows that its steps requested of each shard, by (table name, shard); a window requests each row
            once for all its steps.
    """

    steps: int
    sums: Sequence[np.ndarray[Any, Any]]
    logs: Mapping[str, "Floats | float"]
    measured: Sequence[float] = ()
    examples: int = 0
    unique_rows: int = 0
    cached: CachedCounts = CachedCounts()
    worker: int = 0
    collected: Sequence[Rows] = ()
    shard_rows: Mapping[tuple[str, int], int] = dataclasses.field(default_factory=dict)


class Closure(abc.ABC):
    """Traces the closures of one program and reads their results.

    A subclass pulls with `_pull`, traces its steps with `_run` and builds its result with `_result`.

    Args:
        program: the steps that closures run.

    Attributes:
        measures: the number of float32 values that the mode measures in a closure.
        contributes: whether steps hand their gradients to an update that runs on the servers.
        operations: the number of operations in one step; 0 before a step is traced, and without end for a step that
            must not run beside another one.
        layouts: the layouts of counts by shard, which all closures share whose results one of them reads; None if rows
            are not counted by shard.
    """

    measures: ClassVar[int] = 0
    contributes: ClassVar[bool] = False

    def __init__(self, program: Program) -> None:
        self.program = program
        self.operations = 0
        self.layouts: ShardLayouts | None = None
        # The names are known once a step is traced. The logs of all closures of a model have the same names, so each
        # closure can read the results of all others.
        self._log_shapes: list[tuple[str, list[int]]] = []
        # The place of each shard among the counts of rows in the graph that this closure traces.
        self._shards: dict[Shard, int] = {}
        self._recording: Recording | None = None
        self._exchange: Exchange | None = None
        # Reads a table whole once for all steps of a closure; None if each step looks up all rows.
        self._read_whole: ReadWhole | None = None
        self._numbering: step.Numbering | None = None
        self._device_copies: DeviceCopies | None = None

    @abc.abstractmethod
    def over_iterator(self, source: WorkerBatches, order: Order) -> tf.Tensor:
        """Traces up to `order.steps` steps over the worker's own input; returns the result as a float32 vector."""

    @abc.abstractmethod
    def over_batches(self, batches: Sequence[Nest], order: Order) -> tf.Tensor:
        """Traces one step for each batch that the chief feeds; returns the result as a float32 vector."""

    def ids_per_step(self, examples: int | None) -> Mapping[str, int | None]:
        """Counts the ids that one step looks up in each table; None where unknown, empty before a step is traced.

        Args:
            examples: the examples in a batch, if that number is known but not part of the static shape.
        """
        return {} if self._recording is None else self._recording.ids_per_step(examples)

    def read(self, vector: Floats) -> Result:
        """Parses the vector that a closure returned to the chief."""
        values = np.asarray(vector)
        # `_result` wrote: 2 lanes for the steps, 2 for the layout, 6 for the counts of cached rows, the sums, the
        # measurements, the logs, the counts, what metrics collect, and the rows of each shard at the end.
        steps, layout, asked, found, saved_bytes = values[: 2 * _INTEGERS].view(np.int64).tolist()
        sums, at = [], 2 * _INTEGERS
        for variable in self.program.sums:
            end = at + lanes(variable.shape.num_elements(), variable.dtype)
            sums.append(_to_variable_value(variable, values[at:end]))
            at = end
        measured, at = values[at : at + self.measures], at + self.measures
        logs: dict[str, Floats | float] = {}
        for name, shape in self._log_shapes:
            end = at + math.prod(shape)
            # A copy, because a view would keep the whole vector. Most logs are numbers.
            logs[name] = values[at:end].reshape(shape).copy() if shape else float(values[at])
            at = end
        # float32 counts exactly up to 16 million. A closure has fewer examples, and hardly ever as many rows.
        examples, unique_rows = map(int, values[at : at + _COUNTS])
        collected, rest = self._read_collected(values[at + _COUNTS :])
        shards = () if self.layouts is None else self.layouts.shards_of(layout)
        shard_rows = {shard: int(rows) for shard, rows in zip(shards, rest.tolist(), strict=True)}
        return Result(
            steps,
            sums,
            logs,
            measured.tolist(),
            examples,
            unique_rows,
            CachedCounts(asked, found, saved_bytes),
            collected=collected,
            shard_rows=shard_rows,
        )

    def _read_collected(self, values: Floats) -> tuple[list[Rows], Floats]:
        """Parses a lane with the number of examples for each buffer, then the examples; returns what is behind, too."""
        buffers, collected = self.program.buffers, list[Rows]()
        at = len(buffers)
        for buffer, count in zip(buffers, values[:at].view(np.int32).tolist(), strict=True):
            collected.append(buffer.parse(values[at : at + count * buffer.width]))
            at += count * buffer.width
        return collected, values[at:]

    def _pull(
        self,
        order: Order,
        scales: Mapping[VariableKey, float] | None = None,
        capped: frozenset[VariableKey] = frozenset(),
        draws: Int | None = None,
    ) -> tuple[Exchange, Copies]:
        """Pulls the dense variables and sets the metric sums to zero; returns the exchange and all local copies.

        Args:
            order: the order of the chief.
            scales: as for `Exchange`.
            capped: as for `Exchange`.
            draws: a number that closures which start from the same values do not share, so that they draw other random
                numbers; by default the input shard.
        """
        exchange = Exchange(self.program.variables, scales, order, capped, self.program.workers, draws)
        return exchange, self._pull_by(exchange, order)

    def _pull_by(self, exchange: Exchange, order: Order) -> Copies:
        """Pulls by an exchange and sets the metric sums to zero; returns all local copies."""
        self._exchange = exchange
        exchange.pull()
        number, stride, shard = (tf.cast(one, tf.int64) for one in (order.number, order.stride, order.shard))
        self._numbering = step.Numbering(number, stride, exchange.pulled, shard)
        copies: Copies = dict(exchange.copies)
        for variable in self.program.sums:
            # These variables stay on the worker after a closure, so the next closure has to reset them.
            copies[variable.key] = local_copy(variable)
            tf.raw_ops.AssignVariableOp(resource=copies[variable.key], value=tf.zeros(variable.shape, variable.dtype))
        for buffer in self.program.buffers:
            copies[buffer.key] = buffer.begin_closure()
        if self.program.devices:
            variables = [*self.program.variables, *self.program.sums]
            self._device_copies = DeviceCopies(self.program.devices, copies, variables)
        return copies

    @in_stage(EXCHANGE)
    def _result(
        self, copies: Copies, steps: tf.Tensor, logs: tf.Tensor, measured: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Packs the result for the chief into one vector; `read` is the inverse."""
        # These reads come after the steps: TensorFlow orders the reads and writes of one resource within a graph.
        sums = [tf.raw_ops.ReadVariableOp(resource=copies[v.key], dtype=v.dtype) for v in self.program.sums]
        # A closure without batches may have no logs, but the vector must have the same length.
        size = sum(math.prod(shape) for _, shape in self._log_shapes) + _COUNTS
        logs = tf.pad(logs, [[0, size + len(self._shards) - tf.size(logs)]])
        logs, shard_rows = logs[:size], logs[size:]
        collected = [buffer.end_closure(copies[buffer.key]) for buffer in self.program.buffers]
        counts = [tf.shape(rows)[0] for rows in collected]
        cache = row_cache.current()
        cached = tf.zeros([_INTEGERS - 2], tf.int64) if cache is None else cache.take_counts()
        measurements = [] if measured is None else [measured]
        layout = 0 if self.layouts is None else self.layouts.number_of(self._shards)
        return pack(
            [steps, tf.constant(layout, tf.int64), cached, *sums, *measurements, logs, *counts, *collected, shard_rows]
        )

    def _run(
        self,
        copies: Copies,
        lookups: DirectLookups,
        batch: Nest,
        stand_ins: Mapping[VariableKey, Any] | None = None,
        push_id: PushId | None = None,
    ) -> tf.Tensor:
        """Traces one step; returns its logs and its counts as a float32 vector."""
        assert self._exchange is not None
        assignments = self._exchange.assignments
        traced = step.Step(lookups, copies, stand_ins, self.contributes, push_id, assignments=assignments)
        return self._trace(traced, batch)

    def _trace(self, traced: step.Step, batch: Nest) -> tf.Tensor:
        traced.numbering = self._numbering
        if isinstance(traced.lookups, DeviceLookups):
            logs = self._trace_on_devices(traced, traced.lookups, batch)
        else:
            with step.tracing(traced):
                logs = self._run_program(batch)
        return self._with_counts(logs, batch, traced.lookups.unique_ids, traced.lookups.requested_rows)

    def _with_counts(
        self, logs: tf.Tensor, batch: Nest, unique_ids: Sequence[tf.Tensor], requested: Sequence[RequestedOfKind]
    ) -> tf.Tensor:
        """Puts the counts of a step, or of steps, behind its logs: both are added up over steps.

        Args:
            logs: the logs, a float32 vector.
            batch: the batch, whose examples are counted.
            unique_ids: vectors of ids whose rows the step requests.
            requested: the same rows by shard.
        """
        examples = tf.cast(count_examples(batch), tf.float32)
        rows = [tf.size(ids, tf.int32) for ids in unique_ids]
        counts = tf.stack([examples, tf.cast(tf.add_n(rows), tf.float32) if rows else 0.0])
        by_shard = [] if self.layouts is None else [self._count_by_shard(requested)]
        return tf.concat([logs, counts, *by_shard], 0)

    def _with_requested(self, logs: tf.Tensor, found: Sequence[RequestedOfKind]) -> tf.Tensor:
        """Adds the rows that a window requests to the counts behind the logs of its steps.

        Args:
            logs: the logs and counts of its steps, which are traced by now.
            found: the rows that the window requests.
        """
        if not found or self.layouts is None:
            return logs
        rows = self._count_by_shard(found)
        size = sum(math.prod(shape) for _, shape in self._log_shapes) + _COUNTS
        return logs + tf.pad(rows, [[size, 0]])

    def _count_by_shard(self, found: Sequence[RequestedOfKind]) -> tf.Tensor:
        """Returns the requested rows of each shard in the order of `_shards`, float32.

        Args:
            found: as `Lookups.requested_rows`.
        """
        places = [self._shards.setdefault(shard, len(self._shards)) for shards, _ in found for shard in shards]
        if not places:
            return tf.zeros([len(self._shards)])
        rows = tf.cast(tf.concat([rows for _, rows in found], 0), tf.float32)
        # The shards of a step are in order unless it looks a table up in several ways.
        if places == list(range(len(self._shards))):
            return tf.ensure_shape(rows, [len(places)])
        return tf.scatter_nd([[place] for place in places], rows, [len(self._shards)])

    def _run_program(self, batch: Nest) -> tf.Tensor:
        return self._logs_vector(self.program.run(batch))

    def _trace_on_devices(self, home: step.Step, lookups: DeviceLookups, batch: Nest) -> tf.Tensor:
        """Traces a step on the devices of the worker; returns the mean of its logs over the examples."""
        assert self._device_copies is not None
        logs, shares = run_on_devices(
            home, lookups.of_devices, self._device_copies, batch, self._run_program, self.program.thread_state
        )
        if len(logs) == 1 or logs[0].shape.num_elements() == 0:
            return logs[0]
        with tf.device(HOST):
            pairs = zip(logs, shares.weights, strict=True)
            return tf.add_n([tf.math.multiply_no_nan(one, weight) for one, weight in pairs])

    def _record(self, run: Trace, spec: Nest) -> Recording:
        # Kept for `ids_per_step`: the recording has the shapes of all ids that the step looks up.
        self._recording = recording = Recording(run, spec, self._read_whole, len(self.program.devices))
        # Beside each other, steps with a fixed seed would draw the same numbers: each begins the sequence of the seed.
        self.operations = sys.maxsize if recording.has_fixed_seeds else recording.operations
        return recording

    def _logs_vector(self, logs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Converts logs to a float32 vector and stores their names and shapes for `read`."""
        # The names are sorted because the dictionary may have another order when the step is traced again.
        self._log_shapes = [(name, logs[name].shape.as_list()) for name in sorted(logs)]
        if not logs:
            return tf.zeros([0])
        flat = tf.concat([tf.cast(tf.reshape(logs[name], [-1]), tf.float32) for name, _ in self._log_shapes], 0)
        return tf.ensure_shape(flat, [sum(math.prod(shape) for _, shape in self._log_shapes)])


def add_logs(before: tf.Tensor, now: tf.Tensor) -> tf.Tensor:
    """Adds the logs and counts of a step, a float32 vector, to the sum over the steps before it."""
    if before.shape.num_elements() is None:
        # The size was unknown before the first step was traced.
        before = tf.pad(before, [[0, tf.size(now) - tf.size(before)]])
    return before + now


def _to_variable_value(variable: SumVariable, values: Floats) -> np.ndarray[Any, Any]:
    """Converts lanes of a result to the value of a variable."""
    dtype = variable.dtype.as_numpy_dtype
    # `pack` casts narrow types and keeps the bits of wide ones. Both ways copy: a view would keep all of the result.
    narrow = lanes(1, variable.dtype) == 1 and np.dtype(dtype).itemsize != 4
    return (values.astype(dtype) if narrow else values.copy().view(dtype)).reshape(variable.shape)
