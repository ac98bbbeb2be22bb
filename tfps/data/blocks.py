"""Reads blocks of files on the task that trains them: the functions that a graph of `tfps.data.files` calls.

Threading: TensorFlow's threads, several at once. A block depends on the file and an offset alone, so any task can read
it, and again.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfps.data import columns as column_json
from tfps.data.columns import STRING, Column
from tfps.data.compression import read_decompressed
from tfps.data.csv_blocks import Table, after_header, parse_lines, read_header, without_mark
from tfps.data.lines import Lines, Read, read_lines
from tfps.data.packing import Arrays, Joined, pack, pack_joined
from tfps.data.parquet_blocks import read_group
from tfps.data.parts import Part
from tfps.data.record_blocks import read_records, read_whole
from tfps.data.stored_files import Access, FileCache, StoredFile, broken, read_range
from tfps.types import JSON

BEGIN, END = -2, -1
"""What stands for an offset: the begin of a part, and its end."""

_headers: FileCache[tuple[str, ...]] = FileCache(1000)
"""The names in the first lines of files that were read here."""

VALUE = (Column("value", STRING),)
"""The one column of a text file."""
RECORD = (Column("record", STRING, is_opaque=True),)
"""The one column of a TFRecord file."""
DOUBTFUL_RECORDS = "doubtful tfrecord"
"""The format of a TFRecord file in which the C++ ops have found a wrong checksum, or a record that is cut."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the files of a dataset are read; the string of a graph has it as JSON.

    Args:
        format: "text", "tfrecord", `DOUBTFUL_RECORDS`, "csv" or "parquet".
        columns: the columns of an element.
        names: the names of all fields of a line of CSV without a header; empty otherwise.
        delimiter: the character between fields of CSV.
        has_quotes: whether a field of CSV may be between quotes.
        header: whether the first line of each CSV file has the names of its columns.
        compression: a value of `compression.KINDS`; empty for none.
        block_bytes: about the number of bytes that are read at a time.
        access: how files are opened.
    """

    format: str
    columns: tuple[Column, ...]
    names: tuple[str, ...]
    delimiter: str
    has_quotes: bool
    header: bool
    compression: Mapping[str, str]
    block_bytes: int
    access: Access

    def to_json(self) -> str:
        """Returns it as the string that a graph has."""
        fields: dict[str, JSON] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        access = {"options": self.access.options, "patience_s": self.access.patience_s}
        return json.dumps(fields | {"columns": column_json.to_json(self.columns), "access": access})

    def reader(self, file: StoredFile) -> Read:
        """Returns the function that reads ranges of a file, decompressed."""
        kind = self.compression_of(file)
        if kind:
            return lambda begin, end: read_decompressed(file, kind, begin, end, self.access)
        return lambda begin, end: read_range(file, begin, min(end, file.size), self.access)

    def compression_of(self, file: StoredFile) -> str:
        """Returns the compression of a file; empty for none."""
        # A signed URL goes on behind the name.
        names = (file.url, file.url.partition("?")[0])
        return next((kind for end, kind in self.compression.items() if any(one.endswith(end) for one in names)), "")


@functools.lru_cache(maxsize=64)
def _reading(text: bytes) -> Reading:
    fields = json.loads(text)
    columns, access = column_json.from_json(fields.pop("columns")), Access(**fields.pop("access"))
    return Reading(**fields | {"columns": columns, "access": access, "names": tuple(fields["names"])})


def read_block(part: bytes, reading: bytes, offset: int) -> Sequence[np.ndarray[Any, Any]]:
    """Reads the next block of a part.

    Args:
        part: the part, by `Part.to_json`.
        reading: how to read it, by `Reading.to_json`.
        offset: where the block begins; `BEGIN` for the first one, `END` after the last one.

    Returns:
        The offset of the next block, an int64 scalar, or `END`; and the columns as `packing.pack` returns them.

    Raises:
        SourceError: the file cannot be read, is broken, or was changed.
    """
    how, where = _reading(reading), Part.from_json(part)
    if offset == END:
        return [np.int64(END), *pack(how.columns, [column.no_cells() for column in how.columns])]
    after, arrays = _READERS[how.format](where, how, where.begin if offset == BEGIN else int(offset))
    return [np.int64(after), *arrays]


def _read_text(part: Part, how: Reading, offset: int) -> tuple[int, Arrays]:
    lines = read_lines(part, offset, how.block_bytes, how.reader(part.file))
    text = lines.data.replace(b"\r\n", b"\n").removesuffix(b"\r")
    # The last line of a file may have no end.
    count = text.count(b"\n") + (bool(lines.data) and not text.endswith(b"\n"))
    return lines.next, pack_joined(count, Joined(text.removesuffix(b"\n"), b"\n"), [])


def _read_tfrecord(part: Part, how: Reading, offset: int, is_doubtful: bool = False) -> tuple[int, Arrays]:
    records = read_records(part, offset, how.block_bytes, how.reader(part.file), is_doubtful)
    # After what says that a file is broken: the C++ ops, which split those that are not, do without it.
    import pyarrow

    return records.next, pack(how.columns, [pyarrow.array(records.records, pyarrow.binary())])


def _read_csv(part: Part, how: Reading, offset: int) -> tuple[int, Arrays]:
    lines, table = _csv_lines(part, how, offset)
    return lines.next, pack(how.columns, parse_lines(part, lines, table, how.reader(part.file)))


def _csv_lines(part: Part, how: Reading, offset: int) -> tuple[Lines, Table]:
    """Returns the lines of a block without the header of a file, and how they are read."""
    read = how.reader(part.file)
    lines = read_lines(part, offset, how.block_bytes, read)
    if how.header and lines.begin == 0 and lines.data:
        lines = after_header(lines)
    return lines, Table(_names(part, how, read), how.columns, how.delimiter, how.has_quotes)


def read_csv_text(part: bytes, reading: bytes, offset: int) -> Sequence[np.ndarray[Any, Any]]:
    """Reads the next block of a part of CSV, for `tfps.ops.parse_lines` to parse.

    Args:
        part: the part, by `Part.to_json`.
        reading: how to read it, by `Reading.to_json`.
        offset: see `read_block`.

    Returns:
        The offset of the next block; the lines as one string; the offset of the first one; and for each field of a line
        the number of its column, or -1, int32.

    Raises:
        SourceError: the file cannot be read, is broken, or was changed.
    """
    how, where = _reading(reading), Part.from_json(part)
    if offset == END:
        return [np.int64(END), np.array(b"", object), np.int64(0), np.zeros(0, np.int32)]
    lines, table = _csv_lines(where, how, where.begin if offset == BEGIN else int(offset))
    lines = without_mark(lines)
    numbers = {column.name: number for number, column in enumerate(how.columns)}
    fields = np.array([numbers.get(name, -1) for name in table.names], np.int32)
    return [np.int64(lines.next), np.array(lines.data, object), np.int64(lines.begin), fields]


def parse_csv_text(part: bytes, reading: bytes, text: bytes, begin: int) -> Sequence[np.ndarray[Any, Any]]:
    """Parses a block of `read_csv_text` that `tfps.ops.parse_lines` declined.

    Args:
        part: the part, by `Part.to_json`.
        reading: how to read it, by `Reading.to_json`.
        text: the lines.
        begin: the offset of the first one.

    Returns:
        The columns as `packing.pack` returns them.

    Raises:
        SourceError: a line is wrong. The message has the file, the line and the column.
    """
    how, where = _reading(reading), Part.from_json(part)
    read = how.reader(where.file)
    table = Table(_names(where, how, read), how.columns, how.delimiter, how.has_quotes)
    return pack(how.columns, parse_lines(where, Lines(text, int(begin), END), table, read))


def read_record_bytes(part: bytes, reading: bytes, offset: int) -> Sequence[np.ndarray[Any, Any]]:
    """Reads the next block of a TFRecord file, for `tfps.ops.split_records` to split.

    Args:
        part: the part, by `Part.to_json`.
        reading: how to read it, by `Reading.to_json`.
        offset: see `read_block`.

    Returns:
        The bytes, which begin with a record; the offset of the first; and whether the file ends with them.

    Raises:
        SourceError: the file cannot be read, is broken, or was changed.
    """
    how, where = _reading(reading), Part.from_json(part)
    if offset == END:
        return [np.array(b"", object), np.int64(0), np.bool_(True)]
    begin = where.begin if offset == BEGIN else int(offset)
    data, is_end = read_whole(where, begin, how.block_bytes, how.reader(where.file))
    return [np.array(data, object), np.int64(begin), np.bool_(is_end)]


def _names(part: Part, how: Reading, read: Read) -> tuple[str, ...]:
    if not how.header:
        return how.names
    names = _headers.get(part.file, lambda: read_header(part, how.delimiter, how.has_quotes, read))
    if wrong := wrong_names(how.columns, names):
        raise broken(part.file, "line 1", f"the header has {wrong}")
    return names


def wrong_names(columns: Sequence[Column], names: Sequence[str]) -> str:
    """Returns what is wrong with the names in a header; empty if each column is there once."""
    for column in columns:
        count = names.count(column.name)
        if count != 1:
            return f"the column {column.name!r} {count} times" if count else f"no column {column.name!r}"
    return ""


def _read_parquet(part: Part, how: Reading, offset: int) -> tuple[int, Arrays]:
    cells = read_group(part.file, offset, how.columns, how.access)
    return (offset + 1 if offset + 1 < part.end else END), pack(how.columns, cells)


_READERS: dict[str, Callable[[Part, Reading, int], tuple[int, Arrays]]] = {
    "text": _read_text,
    "tfrecord": _read_tfrecord,
    DOUBTFUL_RECORDS: functools.partial(_read_tfrecord, is_doubtful=True),
    "csv": _read_csv,
    "parquet": _read_parquet,
}

WORKER_FUNCTIONS = {
    function.__name__: function for function in (read_block, read_csv_text, parse_csv_text, read_record_bytes)
}
