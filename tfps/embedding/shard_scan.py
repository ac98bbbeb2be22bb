"""Scans of tables: `RowChunk`, some rows with their slots, and `ShardScan`, the rows of one shard in their order.

Files that are written in the order of the ids are made of one `ShardScan` for each shard.
"""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from tfps.embedding.table import Table


@dataclasses.dataclass(frozen=True, eq=False)
class RowChunk:
    """Some rows of a table.

    Args:
        ids: the ids of the rows, int64 [m].
        rows: the rows, [m, dim], on their server.
        slots: the same rows of each slot, [m, width of the slot].
    """

    ids: np.ndarray[Any, Any]
    rows: tf.Tensor
    slots: tuple[tf.Tensor, ...]


class ShardScan:
    """Reads a shard from its first row on, as far as it is asked to.

    Args:
        table: the table.
        shard: the number of the shard.
        chunk_rows: the largest number of rows that are read ahead.
    """

    def __init__(self, table: "Table", shard: int, chunk_rows: int) -> None:
        self._chunks = table.scan_shard(shard, (), chunk_rows)
        self._routing, self._shard = table.routing, shard
        self._ids = np.zeros(0, np.int64)
        self._rows = np.zeros((0, table.dim), table.dtype.as_numpy_dtype)

    def take_until(self, end: int) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """Yields the next ids that are smaller than `end`, with their rows."""
        while True:
            # Every routing maps ascending local rows to ascending ids.
            count = int(np.searchsorted(self._ids, end))
            if count:
                yield self._ids[:count], self._rows[:count]
                self._ids, self._rows = self._ids[count:], self._rows[count:]
            if self._ids.size or (chunk := next(self._chunks, None)) is None:
                return
            local, (rows,) = chunk
            self._ids, self._rows = self._routing.global_of(self._shard, local), rows.numpy()
