"""`RowStore`: the rows of one table, or of one of its slots, on one server.

A table has one store a shard. Everything that reads or changes rows goes through this interface, so a new way to keep
rows (a hash table, rows on disk) is one new subclass. The C++ core has the same seam in `RowStore`.

Local rows: a store numbers its rows by *local row*, which the routing of the table gives for an id. A store with
fixed rows holds the local rows 0 to `rows - 1`; one that grows may hold any of them.

Threading: every method may be called from any thread, and from any graph. One update of a row (with its slots) is
atomic with respect to other updates, and a gather never returns a row that is half written. Assignments, and a whole
scan, are not atomic with respect to updates: whoever needs one moment waits for the steps under way first.
Ownership: a table owns its stores; the memory on the server is freed with the Python object.
Cost: methods that take tensors run on `device`; only arguments and results cross.
"""

import abc
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfps.ops.row_rules import RowRule

if TYPE_CHECKING:
    from typing_extensions import Self  # in `typing` from Python 3.11 on


class RowStore(abc.ABC):
    """Rows of one width and dtype on one device.

    Args:
        device: where the rows are, for example "/job:ps/task:1/device:CPU:0"; "" for the device of the graph.
        dtype: of the rows.
        dim: width of a row.
        rows: local rows are at least 0 and below this.
    """

    def __init__(self, device: str, dtype: tf.DType, dim: int, rows: int) -> None:
        self.device, self.dtype, self.dim, self.rows = device, dtype, dim, rows

    # Class methods, because one operation serves the stores of many tables: an operation on another task costs about a
    # millisecond, and a model may have dozens of tables.

    @classmethod
    @abc.abstractmethod
    def gather(cls, stores: Sequence["Self"], request: tf.Tensor) -> tf.Tensor:
        """Copies the rows that a request asks for, in one operation for all stores.

        Args:
            stores: of one server, width and dtype, in the order of the request's pieces.
            request: int64 [len(stores) + m], a count a store and then local rows (see `tfps.ops.row_request`).

        Returns:
            [m, dim], in the order of the request, on the device of the stores.
        """

    @classmethod
    @abc.abstractmethod
    def apply(cls, rule: RowRule, stores: Sequence[Sequence["Self"]], message: tf.Tensor) -> tf.Operation | None:
        """Updates rows and their slots by an optimizer, in one operation for all stores.

        Args:
            rule: the optimizer.
            stores: for each piece of the message the store of the rows, then those of the slots in the rule's order.
            message: float32, from `tfps.ops.apply_rows.pack_update`.

        Returns:
            The operation; None when run eagerly.
        """

    # The methods below are for the chief: first values, saving, loading, exporting.

    @abc.abstractmethod
    def assign(self, local: tf.Tensor, rows: tf.Tensor) -> None:
        """Overwrites rows.

        Args:
            local: int64 [m], each local row once.
            rows: [m, dim].
        """

    @abc.abstractmethod
    def scan(self, slots: Sequence["Self"], chunk_rows: int) -> Iterator[tuple[np.ndarray[Any, Any], list[tf.Tensor]]]:
        """Reads every row that the store holds, with its slots, chunk by chunk. Runs eagerly.

        Updates may come between two chunks. Within one, a store may promise that rows and slots are of one moment;
        those of variables do for float32, where the C++ ops are built.

        Args:
            slots: stores of the same local rows, of any width.
            chunk_rows: rows of a chunk at most; memory is used for one chunk at a time.

        Yields:
            The local rows of the chunk, int64 [m], and then the rows, [m, dim], and those of each slot, which lie on
            the server until somebody reads them.
        """

    @abc.abstractmethod
    def touched_since(self, cursor: int | None) -> tuple[np.ndarray[Any, Any], int]:
        """The local rows that were updated since a cursor. Runs eagerly.

        A store that nobody watches pays nothing for this. The first call starts to watch it.

        Args:
            cursor: from an earlier call; None to start from now.

        Returns:
            Local rows, int64 [m] ascending, and the cursor of now.

        Raises:
            UnsupportedError: the store cannot watch its rows.
        """
