"""`Step`: the step under trace, in which variables and tables behave differently than on the chief.

A *step* is Keras code (a `train_step`, a `test_step`, or a function that `strategy.run` calls) that is traced into a
graph and runs on a worker. During the trace, a dense variable is the worker's own copy, and a lookup uses rows that the
step has pulled before. In eager code on the chief, both refer to the values on the servers. Variables and tables call
`current()` to find out which of the two applies. An *eager* step runs on the chief, for debugging: it has no copies, so
it refers to the values on the servers too.

Threading: each thread has its own current step, because the threads of several workers trace at the same time.
Cost: `current` reads one attribute of the thread.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import tensorflow as tf
from tensorflow.python.ops import control_flow_v2_func_graphs  # no public function says what a graph is

from tfps.types import VariableKey

Gradient: TypeAlias = tf.Tensor | tf.IndexedSlices
"""The gradient of a dense variable, or of a table: IndexedSlices over the table's unique ids."""


class Gather(Protocol):
    """Joins the gradients of the devices that share a batch."""

    def __call__(
        self,
        gradients: Sequence[Gradient | None],
        update: Callable[[Sequence[Gradient | None]], None],
        is_weighted: bool = False,
    ) -> None:
        """Waits for the gradients of all devices, and makes one update.

        Args:
            gradients: the gradient of each variable on this device; None for one without a gradient.
            update: makes the update from the joined gradients, in the same order.
            is_weighted: whether the loss of the device was multiplied by its `weight` before gradients were taken.
        """
        ...


class Lookups(Protocol):
    """Answers the lookups of a traced step.

    Attributes:
        answered_early: whether the last lookup was answered with rows that were requested before the step, for all
            devices that share its batch.
        never_runs: whether the step is traced only to see what it looks up.
    """

    answered_early: bool
    never_runs: bool

    @property
    def answers_next_early(self) -> bool:
        """Whether the rows of the next lookup were requested before the step, whatever ids it comes with."""
        ...

    @property
    def unique_ids(self) -> Sequence[tf.Tensor]:
        """The unique ids of the lookups so far, a vector for each kind of table."""
        ...

    @property
    def requested_rows(self) -> Sequence[tuple[Sequence[tuple[str, int]], tf.Tensor]]:
        """The rows that the lookups so far request: (table name, shard) and a count for each, by kind of table."""
        ...

    # `Any` stands for a `RoutedRows` and a `LookupResult` of `tfps.embedding`, which imports this module.
    def look_up(self, table: Any, ids: tf.Tensor) -> Any:
        """Looks up the rows of `table` for `ids` of any shape. Repeated ids share one row."""
        ...

    def read_whole(self, table: Any) -> tf.Tensor:
        """Returns all rows of `table`, [rows, dim], in the order of their ids."""
        ...


class Keyed(Protocol):
    """A table or a dense variable. This module needs only its key."""

    @property
    def key(self) -> VariableKey:
        """The key, unique in this process."""
        ...


class Assignments(Protocol):
    """Takes note of the assignments of a traced step."""

    # `Any` stands for a `DenseVariable` of `tfps.strategy`, which imports this module.
    def note(self, variable: Any, value: tf.Tensor | None, added: float, indices: Any = None) -> None:
        """Takes note of one assignment, before it is traced.

        Args:
            variable: the variable; the worker has a copy of it.
            value: the assigned or added value, of the slices if there are `indices`; None if nothing is known.
            added: 0 for an assignment; 1 if the value is added to the variable, -1 if it is subtracted.
            indices: the indices of the slices that are overwritten, as in `tf.scatter_nd`; None otherwise.
        """
        ...

    def skipped(self, variables: Sequence[Any] | None) -> contextlib.AbstractContextManager[None]:
        """Takes no note of assignments to some variables within; None for all variables."""
        ...


class Reducer(Protocol):
    """Makes one gradient of those that the workers of a step have for a dense variable."""

    def mean(self, gradients: Sequence[Gradient]) -> list[tf.Tensor]:
        """Returns the mean over all examples of all workers of each gradient, dense, on every worker the same."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Contribution:
    """Gradients that an optimizer hands over to the servers, which make the update.

    Args:
        gradients: the gradient of each variable; IndexedSlices for tables.
        values: the table or dense variable of each gradient.
        measures: for each value, what is summed beside the gradients of an id that repeats (a
            `tfps.ops.rules.declaration.Measure`); None for nothing.
        update: a function that makes the optimizer's update from the mean gradients, in the same order.
    """

    gradients: Sequence[Gradient]
    values: Sequence[Keyed]
    measures: Sequence[Any]
    update: Callable[[Sequence[Gradient]], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Numbering:
    """How one process would number the steps of a closure.

    Args:
        number: the number of the first step of the closure, an int64 scalar.
        stride: the difference between the numbers of a step and the next one of the closure; 0 if they are not known.
        pulled: the values of the copies at the start of the closure, by variable key.
        shard: the number of the input shard, which is that of its worker unless the worker was lost, an int64 scalar.
    """

    number: tf.Tensor
    stride: tf.Tensor
    pulled: Mapping[VariableKey, tf.Tensor]
    shard: tf.Tensor


class Step:
    """One step under trace.

    Args:
        lookups: answers the lookups of the step.
        copies: the handle of each of the worker's copies, by variable key. Other variables stay on their servers.
        stand_ins: the local tables that replace tables in the step, by table key.
        contributes: whether the step hands its gradients over to an update that the servers make.
        push_id: the `tfps.embedding.push_dedup.PushId` of the step's first push; None if pushes are never repeated.
        by_hand: whether the step belongs to a hand-written loop.
        assignments: takes note of what the step assigns to its copies; None if nothing is pushed back from them.
        eager: whether the step runs at once, instead of being traced. Such a step has no copies and no stand-ins.
        exported: whether the trace is saved for another program, so that no worker runs it.

    Attributes:
        gradients: the `TableGradient` of each lookup whose backward pass was traced; the push of this step uses them.
        looked_up: the (table, ids) of each lookup so far.
        found: the `LookupResult` of each of them.
        whole_reads: the (table, all its rows) of each time that the step read a table whole.
        contributions: the gradients that were handed over so far; None if the step makes its own updates.
        numbering: the numbers of the steps of the closure; None if the step belongs to none.
        uses_number: whether the step uses its number among the steps of all workers, which the chief then has to know.
        saved: says where a step with a gradient that is not finite is saved, a string scalar; None if nothing saves it.
        reducer: reduces the gradients of dense variables over the workers; None if each worker uses its own.
        summed: the keys of tables whose gradients of repeated ids are summed first in this step, as Keras does where a
            part of the gradient of the table is dense.
        drawn: the state of each random generator that the step draws from.
        uncopied: the variables that the step uses where they are, because the worker has no copy, by key.
        devices: the number of devices of the worker that share the batch.
        device_number: the number of the step's device among them; the first one is 0.
        gather: joins the gradients of the devices that share a batch, for one update; None if the step has a batch of
            its own.
        weight: the fraction of the examples of the batch that the device has, a float32 scalar; None likewise.
        scaled_by: the optimizers, by identity, that have multiplied the loss of the device by its weight.
        host: the CPU of the worker, for operations that other devices do not have; None if the step computes there.
    """

    def __init__(
        self,
        lookups: Lookups,
        copies: dict[VariableKey, tf.Tensor],
        stand_ins: Mapping[VariableKey, Any] | None = None,
        contributes: bool = False,
        push_id: Any = None,
        by_hand: bool = False,
        eager: bool = False,
        assignments: Assignments | None = None,
        exported: bool = False,
    ) -> None:
        self.push_id, self.by_hand, self.eager, self.assignments = push_id, by_hand, eager, assignments
        self.exported = exported
        self._pushes = 0
        self.numbering: Numbering | None = None
        self.uses_number = False
        self.saved: tf.Tensor | None = None
        self.reducer: Reducer | None = None
        self.lookups = lookups
        self.contributions: list[Contribution] | None = [] if contributes else None
        self.stand_ins = stand_ins or {}
        self._copies = copies
        # A lookup may be in a branch or a loop, which has its own graph. Gradient sources must be in the step's graph,
        # because the tape computes the gradients there.
        self._graph = tf.compat.v1.get_default_graph()
        self._sources: dict[VariableKey, tf.Tensor] = {}
        self.gradients: list[Any] = []
        self.looked_up: list[tuple[Any, tf.Tensor]] = []
        self.found: list[Any] = []
        self.drawn: list[Any] = []
        self.summed: set[VariableKey] = set()
        self.uncopied: dict[VariableKey, Any] = {}
        self.whole_reads: list[tuple[Any, tf.Tensor]] = []
        self.devices, self.device_number = 1, 0
        self.gather: Gather | None = None
        self.weight: tf.Tensor | None = None
        self.scaled_by: set[int] = set()
        self.host: str | None = None

    @property
    def is_inside(self) -> bool:
        """Whether the code under trace is in a branch or a loop of the step, which has its own graph."""
        return tf.compat.v1.get_default_graph() is not self._graph

    @property
    def is_in_loop(self) -> bool:
        """Whether the code under trace is in a loop of the step, or in a branch within one."""
        graph = tf.compat.v1.get_default_graph()
        while graph is not self._graph and graph is not None:
            if isinstance(graph, control_flow_v2_func_graphs.WhileBodyFuncGraph):
                return True
            graph = getattr(graph, "outer_graph", None)
        return False

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Creates operations in the graph of the step, also from within its branches and loops."""
        # A branch or a loop takes what it uses of the step's graph as an argument.
        with self._graph.as_default():
            yield

    def sum_repeats(self, key: VariableKey) -> None:
        """Sums the gradients of repeated ids of a table in this step, because in one process its gradient is dense."""
        self.summed.add(key)

    def next_push_id(self) -> Any:
        """Returns the id of the next push of rows, or None if pushes have no ids."""
        # A step pushes each time that it applies an optimizer. The pushes are numbered from 0.
        self._pushes += 1
        return None if self.push_id is None else self.push_id.nth(self._pushes - 1)

    @property
    def copies(self) -> dict[VariableKey, tf.Tensor]:
        """The handle of each of the worker's copies, by variable key."""
        return self._copies

    def copy_of(self, key: VariableKey) -> tf.Tensor | None:
        """Returns the handle of the worker's copy of a variable; None if it has no copy."""
        return self._copies.get(key)

    def handles_of(self, key: VariableKey) -> list[tf.Tensor]:
        """Returns the handles of all copies of a variable that the step reads or assigns."""
        copy = self.copy_of(key)
        return [] if copy is None else [copy]

    def handle_of(self, key: VariableKey) -> tf.Tensor | None:
        """Returns the handle of the worker's copy of a variable that the step is about to use; None without a copy."""
        return self.copy_of(key)

    def skipping_assignments(self, variables: Sequence[Any] | None) -> contextlib.AbstractContextManager[None]:
        """Takes no note of assignments within, because an optimizer makes them: it moves variables by deltas.

        Args:
            variables: the variables that it moves; None for all that it assigns.
        """
        return contextlib.nullcontext() if self.assignments is None else self.assignments.skipped(variables)

    def gradient_source(self, key: VariableKey) -> tf.Tensor:
        """Returns the tensor that stands for a table in `tape.gradient(loss, table)`.

        A table has no single handle that a tape could watch. A scalar in the step's graph stands for it: lookups
        declare that they depend on this scalar, and return the table's IndexedSlices as its gradient.
        """
        # One scalar for each table, so that the tape adds up the gradients of all lookups in it.
        if key not in self._sources:
            # Also without the control dependencies of its caller, because later lookups use the same scalar.
            with self._graph.as_default(), tf.control_dependencies(None):
                self._sources[key] = tf.zeros([], name="table_gradient_source")
        return self._sources[key]


class _Current(threading.local):
    """The current step of each thread."""

    step: Step | None = None


_CURRENT = _Current()


def current() -> Step | None:
    """Returns the step that this thread traces, or runs eagerly; None outside of steps."""
    found = _CURRENT.step
    # `tf.init_scope` lifts code out of the trace of a step, and then it runs eagerly.
    return None if found is not None and not found.eager and tf.executing_eagerly() else found


def on_host() -> contextlib.AbstractContextManager[object]:
    """Places operations on the CPU of the worker: those that read and write rows have no kernel for other devices."""
    found = _CURRENT.step
    return contextlib.nullcontext() if found is None or found.host is None else tf.device(found.host)


@contextlib.contextmanager
def tracing(step: Step) -> Iterator[Step]:
    """Makes `step` the current step of this thread."""
    # The earlier step is restored at the end, so that traces may be nested.
    before, _CURRENT.step = _CURRENT.step, step
    try:
        yield step
    finally:
        _CURRENT.step = before
