"""Rows of several tables, and their slots, for a window that is trained in one go: one matrix, pulled, trained, pushed.

Nothing is sorted anew on the way: the rows stay in the order in which the servers sent them, positions are rows of
that matrix, and the deltas go back by the same requests.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfps.embedding.lookup_group import LookupGroup, route
from tfps.embedding.pulling import pull
from tfps.embedding.push import add_to_groups
from tfps.embedding.push_dedup import PushId
from tfps.errors import ConfigError

_KEYS = 1 << 40
"""Of each table: more than it can have rows."""


@dataclasses.dataclass(frozen=True, eq=False)
class WindowRows:
    """What `pull_window` got.

    Args:
        groups: that of the tables, then one for each slot, of the same rows.

    Attributes:
        matrices: the rows, then each slot, float32 [M, dim] each.
        positions: for each lookup the row of the matrices of each of its ids, int32, of the shape of the ids.
        keys: of each row of the matrices a number that no other row of any table has, int64 [M].
    """

    groups: tuple[LookupGroup, ...]

    @property
    def matrices(self) -> list[Any]:
        """See the class."""
        return [group.answer for group in self.groups]

    @property
    def positions(self) -> tuple[Any, ...]:
        """See the class."""
        return self.groups[0].places

    @property
    def keys(self) -> Any:
        """See the class."""
        ids, tables = self.groups[0].routed.unique_ids, len(self.groups[0].tables)
        return (
            ids
            if tables == 1
            else ids + self._by_table(tf.constant([_KEYS * table for table in range(tables)], tf.int64))
        )

    @property
    def requests(self) -> list[Any]:
        """The tensors that say where the rows are, for a loop to carry: with others, these are other rows."""
        return self.groups[0].tensors()[:-1]

    @property
    def no_requests(self) -> list[Any]:
        """Such tensors of no rows at all."""
        routed = self.groups[0].routed
        counts = [tf.zeros([pieces], tf.int64) for pieces in routed.pieces]
        *rest, sizes = self.requests[len(counts) :]
        return [*counts, *(tensor[:0] for tensor in rest), tf.zeros_like(sizes)]

    def with_requests(self, requests: Sequence[Any], matrices: Sequence[Any]) -> "WindowRows":
        """Other rows of the same tables."""
        return WindowRows(
            tuple(group.with_tensors([*requests, matrix]) for group, matrix in zip(self.groups, matrices, strict=True))
        )

    def now(self) -> Any:
        """The rows as the servers hold them by now, [M, dim]."""
        return pull(self.groups[:1])[0]

    def shared_by_table(self, shares: Sequence[float]) -> Any:
        """A number for each table as a number for each row, [M, 1], or one for all where they are alike."""
        if len(set(shares)) == 1:
            return shares[0]
        return self._by_table(tf.constant(shares, tf.float32))[:, tf.newaxis]

    def _by_table(self, values: Any) -> Any:
        """A value for each table, [tables], as one for each row, [M]."""
        routed = self.groups[0].routed
        return tf.gather(tf.repeat(values, routed.table_sizes), tf.math.invert_permutation(routed.table_order))


def pull_window(lookups: Sequence[tuple[Any, Any]], slots: Sequence[Sequence[Any]]) -> WindowRows:
    """The rows that some lookups ask for, each once, and the slots that go with them: one request a server.

    Args:
        lookups: (table, integer ids of any shape) each; all tables have one width.
        slots: for each lookup the slot tables of its table, in the order of the rule.

    Raises:
        ConfigError: the tables differ in width or in the number of slots.
    """
    found = route([table for table, _ in lookups], [ids for _, ids in lookups])
    widths = sorted({table.dim for table, _ in lookups})
    if len(widths) != 1 or len({len(of_table) for of_table in slots}) != 1:
        raise ConfigError(
            "`lookups` must be of tables of one width, with as many slots each. "
            f"Received: widths {widths} and {[len(of_table) for of_table in slots]} slots."
        )
    group = found[0].group
    slots_of = {id(table): of_table for (table, _), of_table in zip(lookups, slots, strict=True)}
    groups = [group]
    for number in range(len(slots[0])):
        tables = tuple(slots_of[id(table)][number] for table in group.tables)
        groups.append(dataclasses.replace(group, tables=tables))
    return WindowRows(tuple(dataclasses.replace(g, answer=a) for g, a in zip(groups, pull(groups), strict=True)))


def push_window(
    rows: WindowRows, deltas: Sequence[Any], keeps: Sequence[tf.Tensor | None], push_id: PushId | None = None
) -> list[Any]:
    """Adds to rows and slots beside them; returns the operations.

    Args:
        rows: as pulled.
        deltas: for each of `rows.matrices` what to add, in its order.
        keeps: for each of them the fraction of the old rows that stays, None for all of it.
        push_id: a server that has applied it ignores the push.
    """
    return add_to_groups(list(zip(rows.groups, deltas, keeps, strict=True)), push_id)
