"""The step under trace: inside a worker's step, variables and tables behave differently than on the chief.

A *step* is Keras code (a `train_step`, a `test_step`, a function given to `strategy.run`), traced into a graph that
runs on a worker. During the trace a dense variable is the worker's own copy, and a lookup is answered from rows that
the step pulled before. In eager code on the chief both are what the servers hold. A variable calls `current()` to find
out where it is.

Threading: each thread has its own current step, because workers' threads trace at the same time. Cost: `current` is one
attribute of the thread.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import tensorflow as tf

from tfps.types import VariableKey

Gradient: TypeAlias = tf.Tensor | tf.IndexedSlices
"""A dense variable's gradient, or a table's: IndexedSlices over its unique ids."""


class Lookups(Protocol):
    """Answers the lookups of a traced step."""

    # Tables and results belong to `tfps.embedding`, which this module must not import.
    def look_up(self, table: Any, ids: tf.Tensor) -> Any:
        """The rows of `table` for `ids` of any shape, each once: a `tfps.embedding.lookup.LookupResult`."""
        ...


class Keyed(Protocol):
    """A table or a dense variable, of which this module needs no more than the key."""

    @property
    def key(self) -> VariableKey:
        """Tells it from all others."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Contribution:
    """Gradients that an optimizer handed over instead of making its update.

    Args:
        gradients: one a variable; IndexedSlices for tables.
        values: the table or dense variable of each gradient.
        update: makes the optimizer's update from mean gradients, given in the same order.
    """

    gradients: Sequence[Gradient]
    values: Sequence[Keyed]
    update: Callable[[Sequence[Gradient]], None]


class Step:
    """One step under trace.

    Args:
        lookups: answers its lookups.
        copies: handles of the worker's copies, by variable key. A variable that is not in it stays on its server.
        stand_ins: local tables that are looked up and updated in place of a table, by table key.
        contributes: whether it hands its gradients over to an update that the servers make.
        push_id: the `tfps.embedding.push_dedup.PushId` of the step; None where no push is ever repeated.
        by_hand: whether it belongs to a hand-written loop.

    Attributes:
        gradients: a `TableGradient` for each backward pass of a lookup; the push of the same step uses them.
        looked_up: (table, ids) of each lookup so far.
        contributions: what was handed over so far; None where the step makes its own updates.
    """

    def __init__(
        self,
        lookups: Lookups,
        copies: dict[VariableKey, tf.Tensor],
        stand_ins: Mapping[VariableKey, Any] | None = None,
        contributes: bool = False,
        push_id: Any = None,
        by_hand: bool = False,
    ) -> None:
        self.push_id, self.by_hand = push_id, by_hand
        self._pushes = 0
        self.lookups = lookups
        self.contributions: list[Contribution] | None = [] if contributes else None
        self.stand_ins = stand_ins or {}
        self._copies = copies
        # Gradient sources must be in the step's own graph, also where a lookup is in a branch or a loop of it.
        self._graph = tf.compat.v1.get_default_graph()
        self._sources: dict[VariableKey, tf.Tensor] = {}
        self.gradients: list[Any] = []
        self.looked_up: list[tuple[Any, tf.Tensor]] = []

    def next_push_id(self) -> Any:
        """The id of the next push of rows. A step pushes once for each time that an optimizer is applied."""
        self._pushes += 1
        return None if self.push_id is None else self.push_id.nth(self._pushes - 1)

    def copy_of(self, key: VariableKey) -> tf.Tensor | None:
        """Handle of the worker's own copy, or None where there is none."""
        return self._copies.get(key)

    def gradient_source(self, key: VariableKey) -> tf.Tensor:
        """The tensor that stands for a table in `tape.gradient(loss, table)`.

        A table has no single handle that a tape could watch. A scalar of the step's graph takes its place: lookups say
        that they depend on it, and return the table's IndexedSlices as its gradient.
        """
        if key not in self._sources:
            with self._graph.as_default(), tf.control_dependencies(None):
                self._sources[key] = tf.zeros([], name="table_gradient_source")
        return self._sources[key]


class _Current(threading.local):
    step: Step | None = None


_CURRENT = _Current()


def current() -> Step | None:
    """The step this thread is tracing; None in eager code, and inside `tf.init_scope`."""
    return None if tf.executing_eagerly() else _CURRENT.step


@contextlib.contextmanager
def tracing(step: Step) -> Iterator[Step]:
    """Makes `step` current in this thread."""
    before, _CURRENT.step = _CURRENT.step, step
    try:
        yield step
    finally:
        _CURRENT.step = before
