"""`RowStore`: the interface of the rows of one table, or of one slot table, on one server.

A table has one store for each shard. All code that reads or changes rows uses this interface, so a new way to keep rows
(a hash table, rows on disk) is one new subclass. The C++ core has the same interface in its `RowStore`.

Local rows: a store numbers its rows by *local row*, which the table's routing computes from an id. A store with a fixed
number of rows holds the local rows 0 to `rows - 1`; a store that grows may hold any subset of them.

Threading: any thread and any graph may call every method. One update of a row, slots included, is atomic with respect
to other updates, and a gather never returns a row that is half written. Assignments, and a scan as a whole, are
not atomic with respect to updates: a caller that needs a consistent state first waits for the steps under way.
Ownership: a table owns its stores; the memory on the server is freed together with the Python object.
Cost: methods that take tensors run on `device`; only their arguments and results cross.
"""

import abc
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import tensorflow as tf

from tfps.ops.row_rules import RowRule

if TYPE_CHECKING:
    from typing_extensions import Self  # in `typing` from Python 3.11 on


class RowStore(abc.ABC):
    """Rows of one width and dtype on one device.

    Args:
        device: the device of the rows, for example "/job:ps/task:1/device:CPU:0"; "" for the device of the graph.
        dtype: the dtype of the rows, in which callers give and get them.
        dim: the width of a row.
        rows: the limit of local rows, which are at least 0 and below it.
        stored_dtype: the dtype in which the store keeps them, where an update rounds at random; None for `dtype`.

    Attributes:
        may_be_cached: whether a worker may use a copy of a row for some steps without asking the store.
    """

    may_be_cached: ClassVar[bool] = True

    def __init__(self, device: str, dtype: tf.DType, dim: int, rows: int, stored_dtype: tf.DType | None = None) -> None:
        self.device, self.dtype, self.dim, self.rows = device, dtype, dim, rows
        self.stored_dtype = stored_dtype or dtype

    # These two are class methods, because one operation serves the stores of many tables: an operation on another task
    # costs about a millisecond, and a model may have dozens of tables.

    @classmethod
    @abc.abstractmethod
    def gather(cls, stores: Sequence["Self"], request: tf.Tensor) -> tf.Tensor:
        """Copies the requested rows, by one operation for all stores.

        Args:
            stores: stores of one server, width, dtype and stored dtype, in the order of the request's pieces.
            request: int64 [len(stores) + m]: the count of each store and then the local rows, as
                `tfps.ops.row_request` describes; `split_request` there takes it apart.

        Returns:
            The rows, [m, dim] of the `stored_dtype`, in the order of the request, on the device of the stores. Fewer
            bytes cross so; the caller casts them to `dtype`.
        """

    @classmethod
    @abc.abstractmethod
    def apply(cls, rule: RowRule, stores: Sequence[Sequence["Self"]], message: tf.Tensor) -> tf.Operation | None:
        """Updates rows and their slots by an optimizer, by one operation for all stores.

        Args:
            rule: the optimizer.
            stores: for each piece of the message, the store of the rows and then the stores of the slots in the order
                of the rule.
            message: the message from `tfps.ops.apply_rows.pack_update`, float32. `unpack_update` there takes it apart,
                and `update_deltas` computes the changes of rows and slots.

        Returns:
            The operation; None when run eagerly.
        """

    # The chief uses the methods below to write first values, to save, to load and to export.

    @abc.abstractmethod
    def assign(self, local: tf.Tensor, rows: tf.Tensor) -> None:
        """Overwrites rows.

        Args:
            local: the local rows, int64 [m], each once.
            rows: their new values, [m, dim].
        """

    @abc.abstractmethod
    def scan(self, slots: Sequence["Self"], chunk_rows: int) -> Iterator[tuple[np.ndarray[Any, Any], list[tf.Tensor]]]:
        """Reads every row of the store, with its slots, chunk by chunk. Runs eagerly.

        Updates may come between two chunks. Within one, a store may promise that rows and slots are of one moment;
        those of variables do for float32, where the C++ ops are built. Between two chunks the caller may leave the
        device scope that it is in, so an implementation must not yield within one of its own.

        Args:
            slots: stores of the same local rows; each may have its own width.
            chunk_rows: the largest number of rows in a chunk. Only one chunk is in memory at a time.

        Yields:
            The local rows of a chunk, int64 [m], ascending from chunk to chunk, and a list of tensors: the rows,
            [m, dim], and the rows of each slot.
            The tensors stay on the server until the caller reads them.
        """

    @abc.abstractmethod
    def touched_since(self, cursor: int | None) -> tuple[np.ndarray[Any, Any], int]:
        """Returns the local rows that were updated after a cursor. Runs eagerly.

        The first call begins to record updates. A store without such a call records none, so it pays nothing.

        Args:
            cursor: the cursor that an earlier call returned; None to start now.

        Returns:
            The local rows, int64 [m] ascending, and the cursor of this moment.

        Raises:
            UnsupportedError: the store cannot record updates.
        """
