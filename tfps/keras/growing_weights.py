"""Tables that grow in Keras's weights files: rows are a dataset, as any variable, and their ids are another one.

The rows of `layers/items/vars/0` have their ids in `tfps_ids/layers/items/vars/0` of the same file, because Keras
counts the datasets of a group. Rows cross the chief chunk by chunk, in no order.
"""

import zlib
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from tfps.embedding.dynamic_table import DynamicTable
from tfps.keras.h5_chunks import ChunkedDataset

ReadRange: TypeAlias = Callable[[Any, int, int], np.ndarray[Any, Any]]
"""Reads the elements of an `h5py.Dataset` from a first to an end."""
_IDS = "tfps_ids"
_CHUNK_ROWS = 1 << 17
"""The largest number of rows that the chief holds at a time."""


def save(group: Any, key: str, table: DynamicTable) -> np.uint32:
    """Writes the rows of a table, or of a slot of one, and their ids; returns the checksum of both.

    Args:
        group: the `h5py.Group` of the layer or optimizer.
        key: the name of the variable in it.
        table: the table, at rest.
    """
    count = table.counts().rows
    ids_group = group.file.require_group(f"{_IDS}{group.name}")
    if not count:
        group.create_dataset(key, (0, table.dim), np.float32)
        # Also without rows: the dataset of ids is what tells a table that grows from an embedding of 0 rows.
        ids_group.create_dataset(key, (0,), np.int64)
        return np.uint32(0)
    rows_file = ChunkedDataset(group, key, (count, table.dim), np.dtype(np.float32))
    ids_file = ids_group.create_dataset(key, (count,), np.int64, chunks=(min(count, _CHUNK_ROWS),), fletcher32=True)
    # Ids are kept, at 8 bytes a row, and written at the end; rows pass through.
    start, checksum = 0, 0
    all_ids, rest = [], np.zeros((0, table.dim), np.float32)
    for chunk in table.scan((), _CHUNK_ROWS):
        rows = np.concatenate([rest, chunk.rows.numpy()])
        all_ids.append(chunk.ids)
        # Whole chunks of the file, so that each is compressed and summed once.
        whole = len(rows) // rows_file.chunk_rows * rows_file.chunk_rows
        if whole:
            rows_file.write(start, rows[:whole])
            checksum = _add(checksum, rows[:whole])
        start, rest = start + whole, rows[whole:]
    if len(rest):
        rows_file.write(start, rest)
        checksum = _add(checksum, rest)
    ids = np.concatenate(all_ids)
    ids_file[...] = ids
    return np.uint32(_add(checksum, ids))


def find_ids(dataset: Any) -> Any | None:
    """Returns the `h5py.Dataset` of the ids of a dataset of rows; None if it has none."""
    return dataset.file.get(f"{_IDS}{dataset.name}")


class SavedGrowingRows:
    """The rows of a table that grows in a weights file.

    Args:
        rows: the `h5py.Dataset` of the rows, whose file is open while the model is loaded.
        ids: that of the ids.
        read: reads a range of a dataset, and names it where it is broken.
        check: compares the checksum of what was read with that of what was written.
    """

    def __init__(self, rows: Any, ids: Any, read: ReadRange, check: Callable[[Any, np.uint32], None]) -> None:
        self._rows, self._ids, self._read, self._check = rows, ids, read, check
        self.shape, self.dtype = tuple(rows.shape), rows.dtype

    def assign_to(self, table: DynamicTable) -> None:
        """Gives a table its rows, or a slot its values of these rows.

        Raises:
            CheckpointError: the file is broken. The table may have some of its rows then.
        """
        checksum, ids = 0, self._read(self._ids, 0, len(self._ids))
        if not table.is_slot:
            # A file has all rows: those of before must not stay between them.
            table.clear()
        for start in range(0, len(ids), _CHUNK_ROWS):
            rows = self._read(self._rows, start, start + _CHUNK_ROWS)
            checksum = _add(checksum, rows)
            table.assign_rows(ids[start : start + _CHUNK_ROWS], rows)
        self._check(self._rows, np.uint32(_add(checksum, ids) if len(ids) else 0))


def _add(checksum: int, values: np.ndarray[Any, Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data, checksum)
