"""Rows of a table on a worker: a compact copy of those that a window of batches asks for, numbered from 0."""

from typing import Any

import tensorflow as tf

from tfps import step
from tfps.embedding.table import Table
from tfps.placement.routing import Routing


class LocalTable:
    """Stands for a table, or a slot of one, in the steps of a window: lookups and updates stay on the worker.

    Where the table itself is asked for an id, this is asked for the position of its row in `rows`. The name, the
    number of rows and the gradient source are the table's.

    Args:
        table: the table.
        rows: what the servers sent, [m, dim].
    """

    def __init__(self, table: Table, rows: Any) -> None:
        self._table = table
        self.key, self.name, self.trainable = table.key, table.name, table.trainable
        self.rows, self.dim, self.dtype = table.rows, table.dim, table.dtype
        self._unique_id = self._shared_name = f"{table._unique_id}_window"
        self.pulled = rows
        self.routing = Routing("mod", table.rows, 1)  # a position is a local row, and below the number of rows
        self.servers = (0,)
        self.shards = [_Rows(self._unique_id, rows, table)]

    @property
    def handle(self) -> Any:
        """What a gradient tape watches, as for the table."""
        return self._table.handle

    def delta(self, kept: Any = None) -> Any:
        """What the steps so far have moved the rows by, [m, dim].

        Args:
            kept: of averages, the part of a row that the steps keep: then what they have added to it.
        """
        return self.shards[0].read_value() - (self.pulled if kept is None else kept * self.pulled)


class _Rows:
    """A float matrix in the worker's own resource manager, as the ops want a variable to be."""

    device = ""

    def __init__(self, name: str, rows: Any, table: Table) -> None:
        self.dtype = table.dtype
        self.shape = tf.TensorShape([None, table.dim])
        self.handle = tf.raw_ops.VarHandleOp(dtype=self.dtype, shape=self.shape, shared_name=f"tfps_{name}")
        tf.raw_ops.AssignVariableOp(resource=self.handle, value=rows)

    def read_value(self) -> Any:
        return tf.raw_ops.ReadVariableOp(resource=self.handle, dtype=self.dtype)


def stand_in(table: Table) -> Any:
    """What takes the place of a table in the step under trace: its rows on the worker, or the table itself."""
    current = step.current()
    return table if current is None else current.stand_ins.get(table.key, table)
