"""`VariableRowStore`: keeps rows in a matrix variable, where local row i is row i of the matrix."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import tensorflow as tf

from tfps.embedding.row_store import RowStore
from tfps.ops.apply_rows import apply_rows
from tfps.ops.gather_rows import gather_rows
from tfps.ops.row_rules import RowRule
from tfps.ops.scan_rows import scan_rows
from tfps.ops.touched_rows import touched_rows, watch_rows

if TYPE_CHECKING:
    from typing_extensions import Self  # in `typing` from Python 3.11 on


class RowVariable(Protocol):
    """The part of a variable that a store uses. A `tf.Variable` has it, and so does the matrix of a `LocalTable`."""

    @property
    def handle(self) -> tf.Tensor:
        """The resource handle of the variable."""

    def read_value(self) -> tf.Tensor:
        """Returns all rows."""

    @property
    def device(self) -> str:
        """The device of the variable."""

    @property
    def dtype(self) -> tf.DType:
        """The dtype of the elements."""

    @property
    def shape(self) -> tf.TensorShape:
        """[rows, dim]; the number of rows may be unknown."""


class VariableRowStore(RowStore):
    """A store that keeps its rows in a matrix variable.

    One op gathers from all variables of a server and one op updates them (`tfps.ops.gather_rows`,
    `tfps.ops.apply_rows`). They run in C++ if the library is built. Ownership: the store keeps the variable alive.

    Rows in a matrix of bfloat16 are float32 to callers.

    Args:
        variable: the matrix, [rows, dim].
        rows: the number of rows; None if the shape of the variable gives it.
    """

    def __init__(self, variable: RowVariable, rows: int | None = None) -> None:
        known = int(variable.shape[0]) if rows is None else rows
        dtype = tf.float32 if variable.dtype == tf.bfloat16 else variable.dtype
        super().__init__(variable.device, dtype, int(variable.shape[1]), known, variable.dtype)
        self.variable = variable

    @classmethod
    def gather(cls, stores: Sequence["Self"], request: tf.Tensor) -> tf.Tensor:
        """See `RowStore`."""
        return gather_rows([store.variable for store in stores], request)

    @classmethod
    def apply(cls, rule: RowRule, stores: Sequence[Sequence["Self"]], message: tf.Tensor) -> tf.Operation | None:
        """See `RowStore`."""
        return apply_rows(rule, [[store.variable for store in piece] for piece in stores], message)

    def assign(self, local: tf.Tensor, rows: tf.Tensor) -> None:
        """See `RowStore`."""
        # `tf.Variable.scatter_update` would do the same, but the variable of a `LocalTable` only has a handle.
        with tf.device(self.device):
            # The handle comes first: it is what says that a strategy has ended.
            handle = self.variable.handle
            stored = tf.cast(rows, self.stored_dtype)
            tf.raw_ops.ResourceScatterUpdate(resource=handle, indices=local, updates=stored)

    def scan(self, slots: Sequence["Self"], chunk_rows: int) -> Iterator[tuple[np.ndarray[Any, Any], list[tf.Tensor]]]:
        """See `RowStore`; a chunk is of one moment where the C++ ops are built."""
        variables = [store.variable for store in (self, *slots)]
        # Every local row exists, so the cursor is a row number, and the server need not send the local rows.
        # Example: 5 rows in chunks of 2 are [0, 1], [2, 3] and [4].
        for start in range(0, self.rows, chunk_rows):
            chunk = scan_rows(variables, start, chunk_rows)
            yield np.arange(start, min(self.rows, start + chunk_rows)), chunk.rows

    def touched_since(self, cursor: int | None) -> tuple[np.ndarray[Any, Any], int]:
        """See `RowStore`. It needs the C++ ops, because only they see each update of a row."""
        # A second call of `watch_rows` for a variable does nothing, so the cursors of other callers stay valid.
        if cursor is None:
            watch_rows(self.variable)
        # The first recorded update has number 1, so cursor 0 is the moment when recording began.
        rows, now = touched_rows(self.variable, cursor or 0)
        touched = rows.numpy() if cursor is not None else np.zeros(0, np.int64)
        return touched, int(now)
