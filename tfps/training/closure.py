"""One closure: what a worker runs in one call. Pull dense variables, train some steps, push what they changed.

The path of a closure: (1) one buffer of dense variables comes from each server; (2) the closure takes batches from the
worker's own iterator, or those that the chief fed, and trains on them; (3) one buffer of dense deltas goes back to each
server, and (4) the number of steps, the metric sums, what the mode measured and the logs go to the chief as one vector.
How (2) and (3) are done is up to the mode of training, which has a subclass of `Closure` for it.

Threading: graphs over an iterator are traced in the main thread, graphs over fed batches in the thread of a worker.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import tensorflow as tf

from tfps import step
from tfps.embedding.push_dedup import PushId
from tfps.strategy.variables import DenseVariable, SumVariable
from tfps.training.batches import WorkerBatches
from tfps.training.exchange import Exchange, local_copy
from tfps.training.hoisting import DirectLookups, Recording
from tfps.training.lanes import lanes, pack
from tfps.training.order import Order
from tfps.types import Nest, VariableKey

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
"""A float32 vector on the chief."""

Copies: TypeAlias = dict[VariableKey, tf.Tensor]
"""Resource handles of a worker's local variables, by variable key."""


@dataclasses.dataclass(frozen=True)
class Program:
    """The steps that a closure runs, whatever the mode.

    Args:
        run: a step: takes a batch and returns its logs, float32 scalars by name, as far as no metric has them.
        variables: dense variables that the worker pulls.
        sums: metric state that a closure counts from zero and sends back.
    """

    run: Callable[[Nest], Mapping[str, tf.Tensor]]
    variables: Sequence[DenseVariable]
    sums: Sequence[SumVariable]


@dataclasses.dataclass(frozen=True)
class Result:
    """What a closure returns.

    Args:
        steps: batches it trained.
        sums: what it added to each metric state, in the order of the program.
        logs: the last step's logs by name.
        measured: what the mode measured, float32 [`Closure.measures`]; sums over closures mean something.
    """

    steps: int
    sums: Sequence[np.ndarray[Any, Any]]
    logs: Mapping[str, float]
    measured: Sequence[float] = ()


class Closure(abc.ABC):
    """Traces the closures of one program and reads their results.

    A subclass pulls with `_pull`, traces its steps with `_run` and ends with `_result`.

    Args:
        program: the steps.

    Attributes:
        measures: float32 values that the mode measures in a closure.
        contributes: whether steps hand their gradients to an update that is made elsewhere.
        operations: operations of one step; 0 before one is traced.
    """

    measures: ClassVar[int] = 0
    contributes: ClassVar[bool] = False

    def __init__(self, program: Program) -> None:
        self.program = program
        self.operations = 0
        # Known once a step is traced. Any closure of a model can read the results of all others, as their logs have the
        # same names.
        self._log_names: list[str] = []
        self._recording: Recording | None = None

    @abc.abstractmethod
    def over_iterator(self, source: WorkerBatches, order: Order) -> tf.Tensor:
        """Traces up to `order.steps` steps over the worker's own input; returns the result, a float32 vector."""

    @abc.abstractmethod
    def over_batches(self, batches: Sequence[Nest], order: Order) -> tf.Tensor:
        """Traces one step for each batch that the chief feeds; returns the result, a float32 vector."""

    def ids_per_step(self, examples: int | None) -> Mapping[str, int | None]:
        """Ids that one step looks up, by table, as far as they are known; nothing before a step was traced.

        Args:
            examples: examples of a batch, where that is known and no part of its shape.
        """
        return {} if self._recording is None else self._recording.ids_per_step(examples)

    def read(self, vector: Floats) -> Result:
        """Reads on the chief what a closure returned."""
        values = np.asarray(vector)
        # The layout is that of `_result`: 2 lanes of steps, the sums, the measurements, the logs.
        steps = int(values[:2].view(np.int64)[0])
        sums, at = [], 2
        for variable in self.program.sums:
            end = at + lanes(variable.shape.num_elements(), variable.dtype)
            sums.append(_as_value_of(variable, values[at:end]))
            at = end
        measured, logs = values[at : at + self.measures], values[at + self.measures :]
        return Result(steps, sums, dict(zip(self._log_names, logs.tolist(), strict=True)), measured.tolist())

    def _pull(
        self,
        order: Order,
        scales: Mapping[VariableKey, float] | None = None,
        capped: frozenset[VariableKey] = frozenset(),
    ) -> tuple[Exchange, Copies]:
        """Pulls the dense variables, and sets this closure's metric sums to zero; returns all local copies."""
        exchange = Exchange(self.program.variables, scales, order.shard, capped)
        exchange.pull()
        copies: Copies = dict(exchange.copies)
        for variable in self.program.sums:
            # The worker keeps these variables from one closure to the next, so each closure begins by setting them to
            # zero.
            copies[variable.key] = local_copy(variable)
            tf.raw_ops.AssignVariableOp(resource=copies[variable.key], value=tf.zeros(variable.shape, variable.dtype))
        return exchange, copies

    def _result(
        self, copies: Copies, steps: tf.Tensor, logs: tf.Tensor, measured: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Packs what the chief gets; `read` is the inverse."""
        # By now the steps have run: TensorFlow orders the reads and writes of one resource within a graph.
        sums = [tf.raw_ops.ReadVariableOp(resource=copies[v.key], dtype=v.dtype) for v in self.program.sums]
        # A closure that had no batch may have no logs, but the vector has the same length always.
        logs = tf.pad(logs, [[0, len(self._log_names) - tf.size(logs)]])
        return pack([steps, *sums, *([] if measured is None else [measured]), logs])

    def _run(
        self,
        copies: Copies,
        lookups: DirectLookups,
        batch: Nest,
        stand_ins: Mapping[VariableKey, Any] | None = None,
        push_id: PushId | None = None,
    ) -> tf.Tensor:
        """Traces one step; returns its logs as a float32 vector."""
        return self._trace(step.Step(lookups, copies, stand_ins, self.contributes, push_id), batch)

    def _trace(self, traced: step.Step, batch: Nest) -> tf.Tensor:
        with step.tracing(traced):
            return self._logs_vector(self.program.run(batch))

    def _record(self, run: Callable[..., tf.Tensor], spec: Nest) -> Recording:
        self._recording = recording = Recording(run, spec)
        self.operations = recording.operations
        return recording

    def _logs_vector(self, logs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Logs as a float32 vector; their names stay here, for `read`."""
        # Sorted, because a dictionary may be in another order when the step is traced again.
        self._log_names = sorted(logs)
        return tf.stack(
            [tf.cast(tf.reshape(logs[name], []), tf.float32) for name in self._log_names] or [tf.zeros([])]
        )[: len(logs)]


def _as_value_of(variable: SumVariable, values: Floats) -> np.ndarray[Any, Any]:
    """Lanes of a result as the value of a variable: `pack` casts narrow types and keeps the bits of wide ones."""
    dtype = variable.dtype.as_numpy_dtype
    # A copy: a view would keep all of the result in memory.
    narrow = lanes(1, variable.dtype) == 1 and np.dtype(dtype).itemsize != 4
    return (values.astype(dtype) if narrow else values.copy().view(dtype)).reshape(variable.shape)
