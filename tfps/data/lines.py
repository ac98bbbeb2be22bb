"""Reads whole lines of a range of a file. No TensorFlow.

A line belongs to the range in which its first byte is. Example: "ab\\ncd\\n" cut at byte 4 has both lines in the first
range, and cut at byte 3 one in each.
Threading: any thread.
"""

import dataclasses
from collections.abc import Callable

from tfps.data.parts import Part
from tfps.data.stored_files import broken

_STEP_BYTES = 1 << 16
"""How many bytes are read at a time to find the end of a line that goes on behind the range."""
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
    if offset == part.begin and offset > 0:
        offset = _line_end(part, offset - 1, read)
    if offset >= part.end:
        return Lines(b"", offset, -1)
    stop = min(offset + most_bytes, part.end)
    data = read(offset, stop)
    if len(data) < stop - offset:
        # Only compressed files end before what their part says, which is not known of them.
        return Lines(data, offset, -1)
    if stop < part.end:
        cut = data.rfind(b"\n") + 1
        if cut:
            return Lines(data[:cut], offset, offset + cut)
    end = stop if data.endswith(b"\n") else _line_end(part, stop, read)
    data += read(stop, end)
    return Lines(data, offset, end if end < part.end else -1)


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
