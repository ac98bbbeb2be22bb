"""Reads compressed files forward, piece by piece. No TensorFlow.

A compressed file cannot be read from its middle. So a reader that has got to an offset waits there for whoever reads on
from it; who comes to another offset decompresses from the begin.

Threading: any thread. A reader belongs to one thread while it reads.
"""

import bz2
import lzma
import threading
import zlib
from collections.abc import Callable
from typing import Protocol

from tfps.data.stored_files import Access, StoredFile, broken, read_range

KINDS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}
"""The ends of names, with their compressions."""

_PIECE_BYTES = 1 << 22
_MAX_IDLE = 16
"""The number of readers that wait. Each keeps up to a few megabytes."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


_MAKERS: dict[str, Callable[[], _Decompressor]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "bz2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
}


class _Reader:
    """Reads one file forward.

    Args:
        file: the file.
        kind: its compression, a value of `KINDS`.
        access: how to read it.

    Attributes:
        offset: the offset in the decompressed file of what is read next.
    """

    def __init__(self, file: StoredFile, kind: str, access: Access) -> None:
        self.offset = 0
        self._file, self._kind, self._access = file, kind, access
        self._at = 0
        self._rest = b""
        self._decompressor = _MAKERS[kind]()

    def read(self, size: int) -> bytes:
        """Returns the next bytes; fewer at the end of the file.

        Raises:
            SourceError: the file is broken or cannot be read.
        """
        pieces, count = [self._rest], len(self._rest)
        while count < size and (piece := self._decompress()):
            pieces.append(piece)
            count += len(piece)
        data = b"".join(pieces)
        self._rest = data[size:]
        self.offset += min(size, count)
        return data[:size]

    def _decompress(self) -> bytes:
        """Returns the next piece; empty at the end."""
        while self._at < self._file.size or (self._decompressor.eof and self._decompressor.unused_data):
            data = self._next_input()
            try:
                if piece := self._decompressor.decompress(data):
                    return piece
            # Each library has its own.
            except (zlib.error, OSError, lzma.LZMAError, EOFError) as error:
                raise broken(self._file, f"byte {self._at} of the {self._kind} data", error) from None
        if not self._decompressor.eof:
            raise broken(self._file, f"byte {self._at} of the {self._kind} data", "the file ends before its data")
        return b""

    def _next_input(self) -> bytes:
        """Returns the next compressed bytes, with a new decompressor where one file follows another in the file."""
        rest = b""
        if self._decompressor.eof:
            rest, self._decompressor = self._decompressor.unused_data, _MAKERS[self._kind]()
        if rest:
            return rest
        end = min(self._at + _PIECE_BYTES, self._file.size)
        data = read_range(self._file, self._at, end, self._access)
        self._at = end
        return data


_lock = threading.Lock()
_idle: list[tuple[tuple[StoredFile, int], _Reader]] = []
"""Readers that nobody uses with their file and offset, the oldest first; `_lock` guards the list."""


def read_decompressed(file: StoredFile, kind: str, begin: int, end: int, access: Access) -> bytes:
    """Returns a range of the content of a compressed file; fewer bytes at its end.

    Raises:
        SourceError: the file is broken or cannot be read.
    """
    reader = _take(file, begin) or _Reader(file, kind, access)
    while reader.offset < begin:
        if not reader.read(min(begin - reader.offset, _PIECE_BYTES)):
            return b""
    data = reader.read(end - begin)
    with _lock:
        _idle.append(((file, reader.offset), reader))
        del _idle[:-_MAX_IDLE]
    return data


def _take(file: StoredFile, offset: int) -> _Reader | None:
    with _lock:
        for number, (key, reader) in enumerate(_idle):
            if key == (file, offset):
                del _idle[number]
                return reader
    return None
