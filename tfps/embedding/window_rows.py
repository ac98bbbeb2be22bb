"""Rows of several tables, and their slots, for a window that is trained in one go: one matrix, pulled, trained, pushed.

Nothing is sorted anew on the way: the rows stay in the order in which the servers sent them, positions are rows of
that matrix, and the deltas go back by the same requests.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfps.embedding.lookup import Group, pull, route
from tfps.embedding.once import Stamp
from tfps.embedding.push import add_to
from tfps.errors import ConfigError


@dataclasses.dataclass(frozen=True, eq=False)
class WindowRows:
    """What `pull_window` got.

    Args:
        groups: that of the tables, then one for each slot, of the same rows.

    Attributes:
        matrices: the rows, then each slot, float32 [M, dim] each.
        positions: for each lookup the row of the matrices of each of its ids, int32, of the shape of the ids.
    """

    groups: tuple[Group, ...]

    @property
    def matrices(self) -> list[Any]:
        """See the class."""
        return [group.answer for group in self.groups]

    @property
    def positions(self) -> tuple[Any, ...]:
        """See the class."""
        return self.groups[0].places

    def now(self) -> Any:
        """The rows as the servers hold them by now, [M, dim]; read after the control dependencies in force."""
        group = self.groups[0]
        requests = tuple(tf.identity(request) for request in group.routed.requests)
        routed = dataclasses.replace(group.routed, requests=requests)
        return pull([dataclasses.replace(group, routed=routed)])[0]

    def shared_by_table(self, shares: Sequence[float]) -> Any:
        """A number for each table as a number for each row, [M, 1], or one for all where they are alike."""
        if len(set(shares)) == 1:
            return shares[0]
        routed = self.groups[0].routed
        by_tally = tf.repeat(tf.constant(shares, tf.float32), routed.table_sizes)
        return tf.gather(by_tally, tf.math.invert_permutation(routed.table_order))[:, tf.newaxis]


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


def push_window(rows: WindowRows, deltas: Sequence[Any], stamp: Stamp | None = None) -> list[Any]:
    """Adds to rows and slots beside them; returns the operations.

    Args:
        rows: as pulled.
        deltas: for each of `rows.matrices` what to add, in its order.
        stamp: a server that has seen it lets the push pass.
    """
    return add_to(list(zip(rows.groups, deltas, strict=True)), stamp)
