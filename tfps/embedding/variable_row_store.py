"""`VariableRowStore`: rows in a variable, local row i being row i of the matrix."""

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
    """What a store needs of a variable: a `tf.Variable` has it, and so has the matrix of a `LocalTable`."""

    @property
    def handle(self) -> tf.Tensor:
        """Resource handle of a variable."""

    def read_value(self) -> tf.Tensor:
        """All rows."""

    @property
    def device(self) -> str:
        """Where the variable is."""

    @property
    def dtype(self) -> tf.DType:
        """Of its elements."""

    @property
    def shape(self) -> tf.TensorShape:
        """[rows, dim]; the number of rows may be unknown."""


class VariableRowStore(RowStore):
    """The rows of a matrix variable.

    Gathers and updates of all variables of a server are one op each (`tfps.ops.gather_rows`, `tfps.ops.apply_rows`),
    in C++ where it is built. Ownership: the store keeps the variable alive.

    Args:
        variable: [rows, dim].
        rows: rows of the matrix; needed where its shape does not say.
    """

    def __init__(self, variable: RowVariable, rows: int | None = None) -> None:
        known = int(variable.shape[0]) if rows is None else rows
        super().__init__(variable.device, variable.dtype, int(variable.shape[1]), known)
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
        # `tf.Variable.scatter_update` would do the same; a local variable has only a handle.
        with tf.device(self.device):
            tf.raw_ops.ResourceScatterUpdate(resource=self.variable.handle, indices=local, updates=rows)

    def scan(self, slots: Sequence["Self"], chunk_rows: int) -> Iterator[tuple[np.ndarray[Any, Any], list[tf.Tensor]]]:
        """See `RowStore`; a chunk is of one moment where the rows are float32 and the C++ ops are built."""
        variables = [store.variable for store in (self, *slots)]
        # Local rows are the rows of the matrix, so the cursor is a row and the numbers of the rows need not be sent.
        # Example: 5 rows in chunks of 2 are [0, 1], [2, 3] and [4].
        for start in range(0, self.rows, chunk_rows):
            chunk = scan_rows(variables, start, chunk_rows)
            yield np.arange(start, min(self.rows, start + chunk_rows)), chunk.rows

    def touched_since(self, cursor: int | None) -> tuple[np.ndarray[Any, Any], int]:
        """See `RowStore`; needs the C++ ops, which alone see each update of a row."""
        # The first update that is seen has number 1, so cursor 0 is the moment when the watch began.
        if cursor is None:
            watch_rows(self.variable)  # does nothing where it is watched already
        rows, now = touched_rows(self.variable, cursor or 0)
        touched = rows.numpy() if cursor is not None else np.zeros(0, np.int64)
        return touched, int(now)
