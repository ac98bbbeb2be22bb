"""Datasets of HDF5 with a checksum for each chunk, which are written chunk by chunk past the cache of HDF5.

HDF5 would crash the process at its end where a chunk in its cache finds no room on the disk. A chunk that is written
directly raises an OSError instead, and needs its checksum from the writer.

Source: H5_checksum_fletcher32 of HDF5, whose readers verify what this computes.
"""

import math
from typing import Any

import numpy as np

_CHUNK_BYTES = 1 << 20
"""The bytes of a chunk, which has one checksum: the size of the cache of a reader."""
LONGEST_ROW_BYTES = 1 << 30
"""Longer rows have no chunks: HDF5 limits them to 4 GB."""
_MODULUS = 65535


class ChunkedDataset:
    """A new dataset that is written from its first row to its last. A chunk has some whole rows.

    Args:
        group: the `h5py.Group`.
        key: the name in it.
        shape: the shape, [rows, ...], without a zero.
        dtype: the dtype.
    """

    def __init__(self, group: Any, key: str, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> None:
        row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self.chunk_rows = min(shape[0], max(1, _CHUNK_BYTES // row_bytes))
        self._chunk_bytes = self.chunk_rows * row_bytes
        self._zeros = (0,) * (len(shape) - 1)
        chunks = (self.chunk_rows, *shape[1:])
        self.dataset = group.create_dataset(key, shape, dtype, chunks=chunks, fletcher32=True)

    def write(self, start: int, rows: np.ndarray[Any, Any]) -> None:
        """Writes the rows from `start` on, which is a multiple of `chunk_rows`.

        Raises:
            OSError: the file cannot be written.
        """
        for first in range(0, len(rows), self.chunk_rows):
            raw = rows[first : first + self.chunk_rows].tobytes()
            # The last chunk has its full size, too.
            raw += bytes(self._chunk_bytes - len(raw))
            self.dataset.id.write_direct_chunk((start + first, *self._zeros), raw + fletcher32(raw))


def fletcher32(raw: bytes) -> bytes:
    """Returns the checksum that HDF5 has behind the bytes of a chunk, 4 bytes.

    With words w_1 .. w_n of 16 bits, big-endian: sum w_i and sum (n + 1 - i) w_i, both modulo 65535.
    """
    words = np.frombuffer(raw + bytes(len(raw) % 2), ">u2").astype(np.int64)
    sums = (int(np.dot(words[part], np.arange(len(words), 0, -1)[part])) for part in _parts(len(words)))
    low, high = _fold(int(words.sum())), _fold(sum(sums))
    return (high << 16 | low).to_bytes(4, "little")


def _parts(count: int) -> list[slice]:
    """Returns slices of up to 2**20 words, whose weighted sums fit 64 bits for any chunk that HDF5 allows."""
    return [slice(start, start + (1 << 20)) for start in range(0, count, 1 << 20)]


def _fold(value: int) -> int:
    # HDF5 adds the upper half to the lower one, so a multiple of the modulus is the modulus, and only zeros give 0.
    return (value - 1) % _MODULUS + 1 if value else 0
