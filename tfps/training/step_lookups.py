"""What answers the lookups of a step under trace: the servers, or rows that were requested beforehand.

Cost: a lookup that is answered beforehand makes no request of its own. `tfps.training.hoisting` finds out which may be.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf

from tfps import step
from tfps.embedding.lookup import expand, fetch
from tfps.embedding.lookup_group import LookupGroup, LookupResult
from tfps.embedding.requested_rows import RequestedOfKind, requested_rows
from tfps.embedding.table import Table
from tfps.embedding.whole import all_ids, never, say_once
from tfps.errors import UnsupportedError

ReadWhole: TypeAlias = Callable[[Table], tf.Tensor]
"""Returns all rows of a table, [rows, dim]."""


class DirectLookups:
    """Serves each lookup at the point where the model makes it, with one request a server.

    Attributes:
        answered_early: whether the last lookup was answered with rows that were requested before the step, for all
            devices that share its batch.
        groups: the groups that have answered lookups, by `id`: several lookups may share one.
        answers_next_early, never_runs: see `step.Lookups`.
    """

    answered_early = answers_next_early = never_runs = False

    def __init__(self) -> None:
        self._wholes: list[ReadWhole | None] = []
        self.groups: dict[int, LookupGroup] = {}

    def look_up(self, table: Table, ids: tf.Tensor) -> LookupResult:
        """Returns the rows of `table` for `ids`."""
        found = fetch([table], [ids])[0]
        self.groups[id(found.group)] = found.group
        return found

    @property
    def unique_ids(self) -> list[tf.Tensor]:
        """The unique ids of lookups so far, a vector for each kind of table; not those within branches and loops."""
        graph = tf.compat.v1.get_default_graph()
        return [ids for group in self.groups.values() if (ids := group.routed.unique_ids).graph is graph]

    @property
    def requested_rows(self) -> list[RequestedOfKind]:
        """The rows that the lookups so far request of each shard; not those within branches and loops."""
        graph = tf.compat.v1.get_default_graph()
        return requested_rows(group for group in self.groups.values() if group.routed.unique_ids.graph is graph)

    def expect_wholes(self, wholes: Sequence[ReadWhole | None]) -> None:
        """Sets for each conversion of a table to a tensor the function that reads it; None if nothing uses it."""
        self._wholes = list(wholes)

    def read_whole(self, table: Table) -> tf.Tensor:
        """Returns all rows of `table`, or a tensor that has no value if nothing uses it."""
        # A trace that converts more often than the recording did gets what it asks for.
        read = self._wholes.pop(0) if self._wholes else self.look_up_all
        return never(table) if read is None else read(table)

    def look_up_all(self, table: Table) -> tf.Tensor:
        """Returns all rows of `table`, by a lookup of all ids."""
        say_once(table, "training")
        return self._expand_all(table)

    def _expand_all(self, table: Table) -> tf.Tensor:
        current = step.current()
        assert current is not None
        # A read within a loop is made once before it: the ids are known, and TensorFlow hands the rows to the loop.
        with current.outside():
            rows = expand(self.look_up(table, all_ids(table)))
            # Keras takes a shape that is known as a constant; otherwise it would read the rows for their number.
            rows.set_shape(table.shape)
        current.whole_reads.append((table, rows))
        return rows


class Replay(DirectLookups):
    """Answers lookups with rows that were requested beforehand.

    Args:
        found: the rows for each lookup of the step; None for a lookup that is served when it is made.
        tables: the table of each lookup.
    """

    def __init__(self, found: Sequence[LookupResult | None], tables: Sequence[Table]) -> None:
        super().__init__()
        self._remaining = list(zip(found, tables, strict=True))
        self._look_ahead()
        self.groups = {id(one.group): one.group for one in found if one is not None}

    def look_up(self, table: Table, ids: tf.Tensor) -> LookupResult:
        """Returns the rows of `table` for `ids`."""
        # Answers are matched to lookups by their order alone, so both traces must have the same order.
        if not self._remaining or self._remaining[0][1] is not table:
            raise UnsupportedError(
                "a step must look up the same tables in the same order whenever it is traced. "
                f"Received: table {table.name!r}. Recorded: {self._next_name()!r}."
            )
        found, _ = self._remaining.pop(0)
        self._look_ahead()
        self.answered_early = found is not None
        return super().look_up(table, ids) if found is None else found

    def _look_ahead(self) -> None:
        self.answers_next_early = bool(self._remaining) and self._remaining[0][0] is not None

    def _next_name(self) -> str | None:
        return self._remaining[0][1].name if self._remaining else None


class DeviceLookups(DirectLookups):
    """The lookups of a step that runs on several devices, each with a part of the batch.

    Args:
        of_devices: what answers the lookups of each device.
    """

    def __init__(self, of_devices: Sequence[DirectLookups]) -> None:
        super().__init__()
        self.of_devices = of_devices
        self.groups = {key: group for one in of_devices for key, group in one.groups.items()}
