"""`GrowingRowStore`: one column of a shard of a table that grows; the column of the rows, or that of a slot."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfps.cluster.remote_resource import RemoteResource
from tfps.embedding import row_use
from tfps.embedding.row_store import RowStore
from tfps.ops import growing_rows
from tfps.ops.growing_rows import GrowthCounts, KeysSince
from tfps.ops.row_rules import RowRule
from tfps.placement.routing import MAX_ROWS

if TYPE_CHECKING:
    from typing_extensions import Self  # in `typing` from Python 3.11 on


class GrowingRowStore(RowStore):
    """Rows in a hash table of C++, whose local rows are the ids themselves: any int64.

    A gather makes no row: an id that has none reads its first value, or the mean of first values where the table does
    not admit every id. An update makes the row, if the table admits the id.

    Args:
        resource: owns the handle of the column.
        device: the device of the rows.
        dim: the width of the column.
        stored_dtype: the dtype of the column.
    """

    # A gather tells the store which rows the step will update, and the store evicts none of them.
    may_be_cached = False

    def __init__(self, resource: RemoteResource, device: str, dim: int, stored_dtype: tf.DType = tf.float32) -> None:
        # Ids are not numbered from 0, so there is no count of local rows; any int64 must be a valid one.
        super().__init__(device, tf.float32, dim, MAX_ROWS, stored_dtype)
        self._resource = resource

    @property
    def handle(self) -> tf.Tensor:
        """The handle of the column."""
        return self._resource.handle

    @classmethod
    def gather(cls, stores: Sequence["Self"], request: tf.Tensor) -> tf.Tensor:
        """See `RowStore`; each row is of one moment, and the rows of a request are not."""
        with tf.device(stores[0].device):
            handles = [store.handle for store in stores]
            dtype = stores[0].stored_dtype
            return growing_rows.gather(handles, request, stores[0].dim, row_use.is_training(), dtype)

    @classmethod
    def apply(cls, rule: RowRule, stores: Sequence[Sequence["Self"]], message: tf.Tensor) -> tf.Operation | None:
        """See `RowStore`."""
        with tf.device(stores[0][0].device):
            # All tables, then the first slot of each table, and so on.
            handles = [piece[i].handle for i in range(1 + len(rule.slots)) for piece in stores]
            return growing_rows.apply(rule, handles, message, len(stores), stores[0][0].dim)

    def assign(self, local: tf.Tensor, rows: tf.Tensor) -> None:
        """See `RowStore`; rows that are not there are made, whatever the admission says."""
        with tf.device(self.device):
            growing_rows.assign(self.handle, tf.cast(local, tf.int64), rows)

    def scan(self, slots: Sequence["Self"], chunk_rows: int) -> Iterator[tuple[np.ndarray[Any, Any], list[tf.Tensor]]]:
        """See `RowStore`; the ids come in no order, and a row and its slots are of one moment."""
        handles, cursor = [store.handle for store in (self, *slots)], 0
        while cursor != -1:
            # A scope for each call: between two chunks the caller may leave its own.
            with tf.device(self.device):
                chunk = growing_rows.scan(handles, cursor, self.dim, chunk_rows)
            keys, cursor = chunk.keys.numpy(), int(chunk.cursor)
            if keys.size:
                yield keys, chunk.rows

    def touched_since(self, cursor: int | None) -> tuple[np.ndarray[Any, Any], int]:
        """See `RowStore`."""
        found = self.keys_since(growing_rows.NOW if cursor is None else cursor)
        # The first call only starts the record. Sorted, because the server finds ids in the order of their hashes.
        touched = np.sort(found.touched.numpy()) if cursor is not None else np.zeros(0, np.int64)
        return touched, int(found.cursor)

    def keys_since(self, cursor: int) -> KeysSince:
        """Returns the keys that were touched or evicted since a cursor of `touched_since`. Runs eagerly."""
        with tf.device(self.device):
            return growing_rows.keys_since(self.handle, cursor)

    def counts(self) -> GrowthCounts:
        """Returns what the shard has done. Runs eagerly."""
        with tf.device(self.device):
            return growing_rows.counts(self.handle)

    def add_column(self, width: int, initial: float, stored_dtype: tf.DType) -> "GrowingRowStore":
        """Adds a column to each row, for a slot.

        Args:
            width: the numbers of a row.
            initial: the first value of each.
            stored_dtype: the dtype of the column.
        """
        # Refers to the table's resource: after a restart of the server the table is made again before its column.
        table = self._resource
        resource = RemoteResource(
            self.device, lambda: growing_rows.add_column(table.handle, width, initial, stored_dtype)
        )
        return GrowingRowStore(resource, self.device, width, stored_dtype)

    def meta_column(self) -> "GrowingRowStore":
        """Returns the column of metadata: when each row was used last, and its score."""
        table = self._resource
        resource = RemoteResource(self.device, lambda: growing_rows.meta_column(table.handle))
        return GrowingRowStore(resource, self.device, growing_rows.META_WIDTH)
