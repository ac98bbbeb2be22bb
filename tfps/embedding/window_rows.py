"""`WindowRows`: the rows of several tables, and their slots, that a worker pulls and trains as one window.

All tables have the same width, so their rows form one matrix. The rows stay in the order in which the servers sent
them, so nothing has to be sorted: positions are row numbers of that matrix, and the same requests push the deltas.
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

_KEY_STRIDE = 1 << 40
"""A number above every id, so that `_KEY_STRIDE * table + id` is different for every row of every table."""


@dataclasses.dataclass(frozen=True, eq=False)
class WindowRows:
    """The rows of a window, which `pull_window` returns.

    Args:
        groups: the lookup group of the tables, then a group for each slot, with the same rows of the slot tables.
    """

    groups: tuple[LookupGroup, ...]

    @property
    def matrices(self) -> list[tf.Tensor]:
        """The rows, float32 [M, dim], then the rows of each slot, [M, width of the slot]."""
        return [group.answer for group in self.groups]

    @property
    def positions(self) -> tuple[tf.Tensor, ...]:
        """For each lookup, the index of each id into the matrices, int32 with the shape of the ids."""
        return self.groups[0].places

    @property
    def keys(self) -> tf.Tensor:
        """For each row of the matrices, a number that is unique among all tables, int64 [M]."""
        # Example: row 7 of the second table (table 1) has the key 2**40 + 7.
        ids, tables = self.groups[0].routed.unique_ids, len(self.groups[0].tables)
        if tables == 1:
            return ids
        return ids + self._by_table(tf.constant([_KEY_STRIDE * table for table in range(tables)], tf.int64))

    @property
    def requests(self) -> list[tf.Tensor]:
        """The tensors that locate the rows, for a loop to carry from turn to turn; see `with_requests`."""
        # `tensors` lists the answer last, and `matrices` already has it.
        return self.groups[0].tensors()[:-1]

    @property
    def empty_requests(self) -> list[tf.Tensor]:
        """The tensors of `requests` for a window without rows."""
        # A request for no rows has a count of 0 for each piece. All other tensors are empty, except the table sizes,
        # which are 0.
        routed = self.groups[0].routed
        counts = [tf.zeros([pieces], tf.int64) for pieces in routed.pieces]
        *rest, sizes = self.requests[len(counts) :]
        return [*counts, *(tensor[:0] for tensor in rest), tf.zeros_like(sizes)]

    def with_requests(self, requests: Sequence[tf.Tensor], matrices: Sequence[tf.Tensor | None]) -> "WindowRows":
        """Returns a window of the same tables with other rows.

        Args:
            requests: tensors in the form of `requests`.
            matrices: tensors in the form of `matrices`; None for a matrix that nothing will read.
        """
        return WindowRows(
            tuple(group.with_tensors([*requests, matrix]) for group, matrix in zip(self.groups, matrices, strict=True))
        )

    def pull_again(self) -> tf.Tensor:
        """Pulls the current rows from the servers, [M, dim], without their slots."""
        return pull(self.groups[:1])[0]

    def spread_by_table(self, factors: Sequence[float]) -> float | tf.Tensor:
        """Spreads a number for each table over its rows: [M, 1], or the number itself if all tables have the same."""
        # The usual case, a number, saves the ops below in every turn.
        if len(set(factors)) == 1:
            return factors[0]
        return self._by_table(tf.constant(factors, tf.float32))[:, tf.newaxis]

    def _by_table(self, values: tf.Tensor) -> tf.Tensor:
        """Spreads a value for each table, [tables], over its rows: [M]."""
        # Example: sizes [2, 1] and values [a, b] give [a, a, b], table by table. The gather then brings them into the
        # order of the answer.
        routed = self.groups[0].routed
        return tf.gather(tf.repeat(values, routed.table_sizes), tf.math.invert_permutation(routed.table_order))


def pull_window(lookups: Sequence[tuple[Table, tf.Tensor]], slots: Sequence[Sequence[Table]]) -> WindowRows:
    """Pulls the unique rows of some lookups, and their slots, by one request to each server.

    Args:
        lookups: the (table, integer ids of any shape) of each lookup; all tables are of one kind.
        slots: for each lookup, the slot tables of its table, in the order of the rule.

    Raises:
        ConfigError: the tables differ in kind, or in the number of slots.
    """
    found = route([table for table, _ in lookups], [ids for _, ids in lookups])
    # One group and one matrix need one kind of table, and each slot matrix needs a slot of every table.
    if len({table.kind for table, _ in lookups}) != 1 or len({len(slot_tables) for slot_tables in slots}) != 1:
        widths = sorted({table.dim for table, _ in lookups})
        types = sorted({table.kind[0].__name__ for table, _ in lookups})
        raise ConfigError(
            "`lookups` must be of tables of one width and store type, with as many slots each. "
            f"Received: widths {widths}, {types} and {[len(slot_tables) for slot_tables in slots]} slots."
        )
    group = found[0].group
    slots_of = {id(table): slot_tables for (table, _), slot_tables in zip(lookups, slots, strict=True)}
    groups = [group]
    # Each slot row is on the same server and local row as its table row, so the table's requests also fit the slots.
    for number in range(len(slots[0])):
        tables = tuple(slots_of[id(table)][number] for table in group.tables)
        groups.append(dataclasses.replace(group, tables=tables))
    return WindowRows(tuple(dataclasses.replace(g, answer=a) for g, a in zip(groups, pull(groups), strict=True)))


def push_window(
    rows: WindowRows, deltas: Sequence[tf.Tensor], keeps: Sequence[tf.Tensor | None], push_id: PushId | None = None
) -> list[tf.Operation]:
    """Adds deltas to the rows of a window and to their slots, on the servers.

    Args:
        rows: the window.
        deltas: the delta of each of `rows.matrices`, in its order.
        keeps: for each matrix, the fraction of the old rows that stays; None for all of it.
        push_id: the id of the push; a server that has already applied it drops the push.

    Returns:
        The operations.
    """
    return add_to_groups(list(zip(rows.groups, deltas, keeps, strict=True)), push_id)
