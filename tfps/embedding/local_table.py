"""`LocalTable`: a worker's compact copy of the rows that a window of batches uses, numbered from 0."""

import tensorflow as tf

from tfps import step
from tfps.embedding.routed_rows import RoutedRows
from tfps.embedding.table import Table
from tfps.embedding.variable_row_store import VariableRowStore
from tfps.placement.routing import MAX_ROWS, Routing


class LocalTable(RoutedRows):
    """Replaces a table, or a slot table, in the steps of a window, so that lookups and updates stay on the worker.

    A step looks up positions in `rows` here, instead of ids in the table. The local table has the key, name, number of
    rows and gradient source of the table, so the code of a step is the same for both.

    Ownership: the rows are a variable in the worker's own resource manager, named after the table; the next window
    overwrites them. Threading: a worker runs one window at a time.

    Args:
        table: the table.
        rows: the rows that the servers sent, [m, dim].
        ids: the ids of the rows, int64 [m], for messages; None if they are not known.
    """

    def __init__(self, table: Table, rows: tf.Tensor, ids: tf.Tensor | None = None) -> None:
        self._variable = _LocalVariable(f"{table._unique_id}_window", rows, table)
        # With one shard of kind "mod", position i is local row i. The routing has the number of rows of the whole
        # table, so that gradients have the table's shape. A window never has more rows than the table.
        # A table that grows has as many as it gets.
        limit = MAX_ROWS if table.grows else table.rows
        routing = Routing("mod", limit, 1)
        store = VariableRowStore(self._variable, limit)
        super().__init__(table.key, table.name, routing, (0,), [store], table.trainable)
        # Tapes tell variables apart by these two names, and one graph may use both the window and the table itself.
        self._unique_id = self._shared_name = f"{table._unique_id}_window"
        self.pulled, self.ids = rows, ids
        self.keeps_repeats = table.keeps_repeats

    @property
    def pulled_rows(self) -> tf.Tensor:
        """The number of rows that the window has, int64."""
        return tf.shape(self.pulled, tf.int64)[0]

    def delta(self, keep: tf.Tensor | None = None) -> tf.Tensor:
        """Returns how far the steps so far have moved the rows, [m, dim].

        Args:
            keep: for moving averages, the fraction of the old row that the steps keep. The delta is then what the steps
                have added to that fraction.
        """
        # Example: a row of 10 that is now 10.5 has the delta 0.5, and with keep 0.9 the delta 10.5 - 9 = 1.5.
        return self._variable.read_value() - (self.pulled if keep is None else keep * self.pulled)


class _LocalVariable:
    """A matrix in the worker's own resource manager: a `RowVariable` that any worker can run."""

    # The device of the graph, because the same graph runs on every worker.
    device = ""

    def __init__(self, name: str, rows: tf.Tensor, table: Table) -> None:
        self.dtype = table.dtype
        self.shape = tf.TensorShape([None, table.dim])
        # Each worker that runs the graph finds its own variable by this name, in its own resource manager.
        self.handle = tf.raw_ops.VarHandleOp(dtype=self.dtype, shape=self.shape, shared_name=f"tfps_{name}")
        tf.raw_ops.AssignVariableOp(resource=self.handle, value=rows)

    def read_value(self) -> tf.Tensor:
        """Reads all rows, [m, dim]."""
        return tf.raw_ops.ReadVariableOp(resource=self.handle, dtype=self.dtype)


def find_stand_in(table: Table) -> RoutedRows:
    """Returns the local table that replaces `table` in the step under trace, or `table` if none does."""
    current = step.current()
    return table if current is None else current.stand_ins.get(table.key, table)
