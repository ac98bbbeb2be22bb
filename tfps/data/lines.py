"""Reads whole lines of a range of a file. No TensorFlow.

A line belongs to the range in which its first byte is. Example: of two lines of three bytes each, a file that is cut at
byte 4 has both in its first range; one that is cut at byte 3 has one in each.
Threading: any thread.
"""

import dataclasses
from collections.abc import Callable

from tfps.data.parts import Part
from tfps.data.stored_files import broken

_STEP_BYTES = 1 << 16
"""How many bytes are read at a time to find the end of a line that goes on behind the range."""
_AHEAD_BYTES = 1 << 12
"""How many bytes behind a range are read with it, for the end of its last line."""
_LONGEST_BYTES = 1 << 28
"""The longest line. What is longer is hardly a text."""

Read = Callable[[int, int], bytes]
"""Returns the bytes of a file from one offset to another; fewer at the end of the file."""


@dataclasses.dataclass(frozen=True)
class Lines:
    """Some lines.

    Args:
        data: the lines with their ends; the last one of a file may have none.
        begin: the offset of the first byte.
        next: the offset at which the rest of the part begins; -1 if there is none.
    """

    data: bytes
    begin: int
    next: int


def read_lines(part: Part, offset: int, most_bytes: int, read: Read) -> Lines:
    """Returns the next lines of a part.

    Args:
        part: the part of a file.
        offset: where a line begins, or `part.begin`.
        most_bytes: about the number of bytes to read.
        read: reads the file.

    Raises:
        SourceError: a line has no end.
    """
    # Whether a line begins at the first byte of the part, the byte before it tells.
    start = offset - 1 if offset == part.begin and offset > 0 else offset
    stop = min(offset + most_bytes, part.end)
    wanted = stop + (_AHEAD_BYTES if stop == part.end else 0) - start
    # One request for nearly all parts.
    data = read(start, start + wanted)
    is_end = len(data) < wanted
    if start < offset:
        found = data.find(b"\n") + 1
        if not found:
            offset = start + len(data) if is_end else _line_end(part, start + len(data), read)
            return Lines(b"", offset, -1) if offset >= part.end else read_lines(part, offset, most_bytes, read)
        offset, data = start + found, data[found:]
        if offset >= part.end:
            return Lines(b"", offset, -1)
    if stop < part.end and not is_end:
        cut = data.rfind(b"\n") + 1
    else:
        # The line that begins before the end of the part, and ends at it or behind it.
        cut = data.find(b"\n", part.end - offset - 1) + 1 or (len(data) if is_end else 0)
    if cut:
        data = data[:cut]
    else:
        at = offset + len(data)
        data += read(at, _line_end(part, at, read))
    end = offset + len(data)
    return Lines(data, offset, -1 if is_end or end >= part.end else end)


def _line_end(part: Part, offset: int, read: Read) -> int:
    """Returns the offset after the next line break, or of the end of the file."""
    at = offset
    while at - offset < _LONGEST_BYTES:
        data = read(at, at + _STEP_BYTES)
        found = data.find(b"\n")
        if found >= 0:
            return at + found + 1
        at += len(data)
        if len(data) < _STEP_BYTES:
            return at
    raise broken(part.file, f"byte {offset}", f"a line of more than {_LONGEST_BYTES >> 20} MiB has no end")


def line_number(offset: int, read: Read) -> int:
    """Returns the number of the line that begins at an offset, from 1. Reads the file up to there."""
    number, at = 1, 0
    while at < offset:
        data = read(at, min(at + (1 << 23), offset))
        if not data:
            break
        number += data.count(b"\n")
        at += len(data)
    return number
