"""Rows of a table on a worker: a compact copy of those that a window of batches asks for, numbered from 0."""

import tensorflow as tf

from tfps import step
from tfps.embedding.routed_rows import RoutedRows
from tfps.embedding.table import Table
from tfps.embedding.variable_row_store import VariableRowStore
from tfps.placement.routing import Routing


class LocalTable(RoutedRows):
    """Takes the place of a table, or of a slot, in the steps of a window: lookups and updates stay on the worker.

    Where a step would ask the table for an id, it asks this for the position of the id's row in `rows`. Key, name,
    number of rows and gradient source are the table's, so a step needs not know which of the two it has.

    Ownership: the rows are a variable in the worker's own resource manager, named after the table; the next window
    overwrites them. Threading: one window at a time on a worker.

    Args:
        table: the table.
        rows: what the servers sent, [m, dim].
    """

    def __init__(self, table: Table, rows: tf.Tensor) -> None:
        self._variable = _LocalVariable(f"{table._unique_id}_window", rows, table)
        # With one shard of kind "mod" a position is its own local row; it is below the number of rows of the table.
        routing = Routing("mod", table.rows, 1)
        store = VariableRowStore(self._variable, table.rows)
        super().__init__(table.key, table.name, routing, (0,), [store], table.trainable)
        # Tapes tell variables apart by these, and a window may be traced beside lookups of the table itself.
        self._unique_id = self._shared_name = f"{table._unique_id}_window"
        self.pulled = rows

    def delta(self, keep: tf.Tensor | None = None) -> tf.Tensor:
        """By how much the steps so far have moved the rows, [m, dim].

        Args:
            keep: for moving averages, the fraction of the old row that the steps keep. The result is then what they
                have added to that fraction.
        """
        return self._variable.read_value() - (self.pulled if keep is None else keep * self.pulled)


class _LocalVariable:
    """A matrix in the worker's own resource manager, with what a `RowVariable` needs."""

    device = ""

    def __init__(self, name: str, rows: tf.Tensor, table: Table) -> None:
        self.dtype = table.dtype
        self.shape = tf.TensorShape([None, table.dim])
        # Found by name in the resource manager of whichever worker runs the graph.
        self.handle = tf.raw_ops.VarHandleOp(dtype=self.dtype, shape=self.shape, shared_name=f"tfps_{name}")
        tf.raw_ops.AssignVariableOp(resource=self.handle, value=rows)

    def read_value(self) -> tf.Tensor:
        return tf.raw_ops.ReadVariableOp(resource=self.handle, dtype=self.dtype)


def find_stand_in(table: Table) -> RoutedRows:
    """What takes the place of a table in the step under trace: its rows on the worker, or the table itself."""
    current = step.current()
    return table if current is None else current.stand_ins.get(table.key, table)
