"""The step being traced: how variables and tables behave differently inside a worker's step than on the chief.

A *step* is Keras code (a `train_step`, a `test_step`, a function given to `strategy.run`) traced into a graph that runs
on a worker. While it is traced, dense variables stand for the worker's own copies and lookups for rows already asked
for; everywhere else (eager code on the chief) they stand for what the servers hold. The variables ask this module
which of the two holds. Threading: a step is a property of the tracing thread.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import tensorflow as tf


class Lookups(Protocol):
    """Answers the lookups of a traced step."""

    def look_up(self, table: Any, ids: Any) -> Any:
        """The rows of `table` for `ids` of any shape, each once: a `tfps.embedding.lookup.LookupResult`."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Contribution:
    """Gradients that an optimizer gave away instead of updating.

    Args:
        gradients: one a variable; IndexedSlices for tables.
        values: what each is for: a table or a dense variable.
        update: makes the optimizer's update of the mean of such gradients, given in the same order.
    """

    gradients: Sequence[Any]
    values: Sequence[Any]
    update: Callable[[Sequence[Any]], None]


class Step:
    """One step under trace.

    Args:
        lookups: answers its lookups.
        copies: worker-local resource handles by variable key; a variable that is not in it stays on its server.
        stand_ins: what is looked up and updated instead of a table, by table key.
        contributes: whether its gradients go into an update that is made elsewhere.
        push_id: of what it pushes to servers, a `tfps.embedding.push_dedup.PushId`; None where nobody sends it again.
        by_hand: whether it is one of a hand-written loop.

    Attributes:
        gradients: what backward passes of lookups gave; the push of the same step looks here.
        looked_up: (table, ids) of each lookup so far.
        contributions: gradients given away so far; None where the step makes its updates itself.
    """

    def __init__(
        self,
        lookups: Lookups,
        copies: dict[Hashable, Any],
        stand_ins: Mapping[Hashable, Any] | None = None,
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
        self._graph = tf.compat.v1.get_default_graph()
        self._sources: dict[Hashable, Any] = {}
        self.gradients: list[Any] = []
        self.looked_up: list[tuple[Any, Any]] = []

    def next_push_id(self) -> Any:
        """That of the next push of rows: a step has one for each time that an optimizer is applied."""
        self._pushes += 1
        return None if self.push_id is None else self.push_id.nth(self._pushes - 1)

    def copy_of(self, key: Hashable) -> Any | None:
        """Handle of the worker's own copy, or None where there is none."""
        return self._copies.get(key)

    def gradient_source(self, key: Hashable) -> Any:
        """The tensor that stands for a table in `tape.gradient(loss, table)`.

        A table has no single handle a tape could watch. A scalar of the step's graph takes its place: lookups declare
        to depend on it, and their gradient for it is the table's IndexedSlices.
        """
        if key not in self._sources:
            with self._graph.as_default(), tf.control_dependencies(None):
                self._sources[key] = tf.zeros([], name="table_gradient_source")
        return self._sources[key]


class _Current(threading.local):
    step: Step | None = None


_CURRENT = _Current()


def current() -> Step | None:
    """The step this thread is tracing; None in eager code (also inside `tf.init_scope`)."""
    return None if tf.executing_eagerly() else _CURRENT.step


@contextlib.contextmanager
def tracing(step: Step) -> Iterator[Step]:
    """Makes `step` current in this thread."""
    before, _CURRENT.step = _CURRENT.step, step
    try:
        yield step
    finally:
        _CURRENT.step = before
