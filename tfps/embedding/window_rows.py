"""The rows of several tables, and their slots, for a window that is trained in one go.

All tables have one width, so their rows are one matrix. Nothing is sorted on the way: the rows stay in the order in
which the servers sent them, positions are rows of that matrix, and the deltas go back by the same requests.
"""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfps.embedding.lookup_group import LookupGroup, route
from tfps.embedding.pulling import pull
from tfps.embedding.push import add_to_groups
from tfps.embedding.push_dedup import PushId
from tfps.embedding.table import Table
from tfps.errors import ConfigError

_KEYS = 1 << 40
"""More than a table can have rows: `_KEYS * table + id` is different for every row of every table."""


@dataclasses.dataclass(frozen=True, eq=False)
class WindowRows:
    """The rows of a window, as `pull_window` returns them.

    Args:
        groups: the tables' lookup group, then one for each slot: the same rows of the slot tables.
    """

    groups: tuple[LookupGroup, ...]

    @property
    def matrices(self) -> list[tf.Tensor]:
        """The rows, float32 [M, dim], then those of each slot, [M, width of the slot]."""
        return [group.answer for group in self.groups]

    @property
    def positions(self) -> tuple[tf.Tensor, ...]:
        """For each lookup the row of the matrices of each of its ids, int32, of the shape of the ids."""
        return self.groups[0].places

    @property
    def keys(self) -> tf.Tensor:
        """For each row of the matrices a number that no other row of any table has, int64 [M]."""
        ids, tables = self.groups[0].routed.unique_ids, len(self.groups[0].tables)
        if tables == 1:
            return ids
        return ids + self._by_table(tf.constant([_KEYS * table for table in range(tables)], tf.int64))

    @property
    def requests(self) -> list[tf.Tensor]:
        """The tensors that say where the rows are, for a loop to carry. `with_requests` takes them."""
        # All but the answer, which comes last.
        return self.groups[0].tensors()[:-1]

    @property
    def empty_requests(self) -> list[tf.Tensor]:
        """The same tensors for a window of no rows."""
        # A request of no rows is a count of 0 for each piece; everything else is empty.
        routed = self.groups[0].routed
        counts = [tf.zeros([pieces], tf.int64) for pieces in routed.pieces]
        *rest, sizes = self.requests[len(counts) :]
        return [*counts, *(tensor[:0] for tensor in rest), tf.zeros_like(sizes)]

    def with_requests(self, requests: Sequence[tf.Tensor], matrices: Sequence[tf.Tensor | None]) -> "WindowRows":
        """Other rows of the same tables.

        Args:
            requests: as `requests` gives them.
            matrices: as `matrices` gives them; None where nobody will read them.
        """
        return WindowRows(
            tuple(group.with_tensors([*requests, matrix]) for group, matrix in zip(self.groups, matrices, strict=True))
        )

    def pull_again(self) -> tf.Tensor:
        """Pulls the rows once more: as the servers have them now, [M, dim]."""
        return pull(self.groups[:1])[0]

    def spread_by_table(self, factors: Sequence[float]) -> float | tf.Tensor:
        """Spreads a number for each table over its rows: [M, 1], or one number where all tables have the same."""
        if len(set(factors)) == 1:
            return factors[0]
        return self._by_table(tf.constant(factors, tf.float32))[:, tf.newaxis]

    def _by_table(self, values: tf.Tensor) -> tf.Tensor:
        """Spreads a value for each table, [tables], over its rows: [M]."""
        # Example: sizes [2, 1] and values [a, b] give [a, a, b] table by table, then in the order of the answer.
        routed = self.groups[0].routed
        return tf.gather(tf.repeat(values, routed.table_sizes), tf.math.invert_permutation(routed.table_order))


def pull_window(lookups: Sequence[tuple[Table, tf.Tensor]], slots: Sequence[Sequence[Table]]) -> WindowRows:
    """Pulls the rows that some lookups ask for, each once, and the slots beside them: one request a server.

    Args:
        lookups: (table, integer ids of any shape) each; all tables are of one kind.
        slots: for each lookup the slot tables of its table, in the order of the rule.

    Raises:
        ConfigError: the tables differ in kind, or in the number of slots.
    """
    found = route([table for table, _ in lookups], [ids for _, ids in lookups])
    if len({table.kind for table, _ in lookups}) != 1 or len({len(of_table) for of_table in slots}) != 1:
        widths = sorted({table.dim for table, _ in lookups})
        types = sorted({table.kind[0].__name__ for table, _ in lookups})
        raise ConfigError(
            "`lookups` must be of tables of one width and store type, with as many slots each. "
            f"Received: widths {widths}, {types} and {[len(of_table) for of_table in slots]} slots."
        )
    group = found[0].group
    slots_of = {id(table): of_table for (table, _), of_table in zip(lookups, slots, strict=True)}
    groups = [group]
    # A slot lies row for row beside its table, so the requests for the table are those for the slot.
    for number in range(len(slots[0])):
        tables = tuple(slots_of[id(table)][number] for table in group.tables)
        groups.append(dataclasses.replace(group, tables=tables))
    return WindowRows(tuple(dataclasses.replace(g, answer=a) for g, a in zip(groups, pull(groups), strict=True)))


def push_window(
    rows: WindowRows, deltas: Sequence[tf.Tensor], keeps: Sequence[tf.Tensor | None], push_id: PushId | None = None
) -> list[tf.Operation]:
    """Adds to rows and slots beside them.

    Args:
        rows: as pulled.
        deltas: for each of `rows.matrices` what to add, in its order.
        keeps: for each of them the fraction of the old rows that stays, None for all of it.
        push_id: a server that has applied it ignores the push.

    Returns:
        The operations.
    """
    return add_to_groups(list(zip(rows.groups, deltas, keeps, strict=True)), push_id)
