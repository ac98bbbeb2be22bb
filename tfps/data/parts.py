"""`Part`: what one worker reads at a time, a file or a range of one. How files are cut into parts. No TensorFlow.

Pure functions: nothing here reads a file.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence

from tfps.data.stored_files import StoredFile


@dataclasses.dataclass(frozen=True)
class Part:
    """A range of a file: bytes, or row groups of a Parquet file.

    Args:
        file: the file.
        begin: the first byte or row group.
        end: the one after the last.
    """

    file: StoredFile
    begin: int
    end: int

    def to_json(self) -> str:
        """Returns the part as the string that a graph has."""
        return json.dumps([*dataclasses.astuple(self.file), self.begin, self.end])

    @classmethod
    def from_json(cls, text: str | bytes) -> "Part":
        """Reads what `to_json` wrote."""
        url, size, mark, begin, end = json.loads(text)
        return cls(StoredFile(url, size, mark), begin, end)


def whole(files: Sequence[StoredFile]) -> list[Part]:
    """Returns one part for each file that has bytes."""
    return [Part(file, 0, file.size) for file in files if file.size]


def by_bytes(files: Sequence[StoredFile], range_bytes: int) -> list[Part]:
    """Returns parts of about equal size, none larger than `range_bytes`.

    Example: 10 bytes in ranges of 4 are 0 to 3, 3 to 6 and 6 to 10.
    """
    return [Part(file, begin, end) for file in files for begin, end in _even(file.size, -(-file.size // range_bytes))]


def by_groups(file: StoredFile, group_bytes: Sequence[int], range_bytes: int) -> list[Part]:
    """Returns parts of neighbouring row groups: as many as `range_bytes` hold, and at least one.

    Args:
        file: a Parquet file.
        group_bytes: the bytes of each row group.
        range_bytes: the largest size of a part of several groups.
    """
    parts: list[Part] = []
    begin, size = 0, 0
    for number, own in enumerate(group_bytes):
        if size and size + own > range_bytes:
            parts.append(Part(file, begin, number))
            begin, size = number, 0
        size += own
    return [*parts, Part(file, begin, len(group_bytes))] if begin < len(group_bytes) else parts


def _even(size: int, count: int) -> Iterator[tuple[int, int]]:
    for number in range(count):
        yield size * number // count, size * (number + 1) // count
