"""Parses lines of CSV and TSV into columns, in bulk by pyarrow. No TensorFlow.

Threading: any thread.
"""

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

from tfps.data.columns import Column
from tfps.data.lines import Lines, Read, line_number
from tfps.data.parts import Part
from tfps.data.stored_files import broken
from tfps.errors import SourceError

_HEADER_BYTES = 1 << 20
"""The longest header line."""
_BLOCK_BYTES = 1 << 18
"""What pyarrow parses at a time: it fits the cache of a core."""
_BOM = b"\xef\xbb\xbf"


@dataclasses.dataclass(frozen=True)
class Table:
    """How the lines of a file are read.

    Args:
        names: the names of all fields of a line, in order.
        columns: the columns that are read.
        delimiter: the character between fields.
    """

    names: tuple[str, ...]
    columns: tuple[Column, ...]
    delimiter: str

    def parse(self, data: bytes) -> list[Any]:
        """Returns the cells of the columns of some lines, arrays of pyarrow without nulls.

        Raises:
            ValueError: a line is wrong.
        """
        if not data.strip(b"\r\n"):
            return [column.no_cells() for column in self.columns]
        try:
            return self._parse(data, _BLOCK_BYTES)
        except ValueError:
            # A line may be longer than a block. If that is not it, the error comes again.
            return self._parse(data, len(data) + 1)

    def _parse(self, data: bytes, block_bytes: int) -> list[Any]:
        from pyarrow import csv as arrow_csv

        # Threads parse several ranges at once anyway.
        read = arrow_csv.ReadOptions(column_names=self.names, block_size=block_bytes, use_threads=False)
        convert = arrow_csv.ConvertOptions(
            column_types={column.name: column.arrow_type() for column in self.columns},
            include_columns=[column.name for column in self.columns],
            null_values=[""],
            strings_can_be_null=True,
            # A quoted empty string is a value.
            quoted_strings_can_be_null=False,
        )
        # A quote in a file of tabs is a character, as in every Criteo-like log.
        parse = arrow_csv.ParseOptions(delimiter=self.delimiter, quote_char='"' if self.delimiter == "," else False)
        table = arrow_csv.read_csv(io.BytesIO(data), read, parse, convert)
        return [column.fill(table.column(column.name)) for column in self.columns]


def parse_lines(part: Part, lines: Lines, table: Table, read: Read) -> list[Any]:
    """Returns the cells of the columns of some lines of a file.

    Raises:
        SourceError: a line is wrong. The message has its number.
    """
    try:
        return table.parse(lines.data)
    except (ValueError, OSError) as error:
        raise _locate(part, lines, table, read, error) from None


def read_header(part: Part, delimiter: str, read: Read) -> tuple[str, ...]:
    """Returns the names in the first line of a file.

    Raises:
        SourceError: it has no such line.
    """
    data = read(0, _HEADER_BYTES)
    line, found, _ = data.partition(b"\n")
    if not found and len(data) == _HEADER_BYTES:
        raise broken(part.file, "line 1", f"the header is longer than {_HEADER_BYTES >> 20} MiB")
    return split_line(line.removeprefix(_BOM), delimiter)


def after_header(lines: Lines) -> Lines:
    """Returns lines from the begin of a file without the first one."""
    line, found, rest = lines.data.partition(b"\n")
    return dataclasses.replace(lines, data=rest, begin=lines.begin + len(line) + len(found))


def split_line(line: bytes, delimiter: str) -> tuple[str, ...]:
    """Returns the fields of one line."""
    text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
    if delimiter != ",":
        return tuple(text.split(delimiter))
    return tuple(next(csv.reader([text]), ()))


def _locate(part: Part, lines: Lines, table: Table, read: Read, error: Exception) -> SourceError:
    """Returns the error for the first line that is wrong."""
    at = 0
    for line in lines.data.splitlines(keepends=True):
        reason = _reason(line, table)
        if reason:
            number = line_number(lines.begin + at, read)
            return broken(part.file, f"line {number}", reason)
        at += len(line)
    return broken(part.file, f"the lines from byte {lines.begin}", error)


def _reason(line: bytes, table: Table) -> str:
    """Returns what is wrong with a line; empty if nothing is."""
    fields = split_line(line, table.delimiter)
    if not any(fields) and not line.strip(b"\r\n"):
        return ""
    if len(fields) != len(table.names):
        return f"it has {len(fields)} fields instead of {len(table.names)} ({', '.join(_some(table.names))})"
    for column in table.columns:
        one = dataclasses.replace(table, columns=(column,))
        try:
            one.parse(line)
        except (ValueError, OSError):
            field = fields[table.names.index(column.name)]
            kind = f"{column.dtype!r}" if field else f"{column.dtype!r} that is not empty, since it has no default"
            return f"the column {column.name!r} must be a {kind}. Received: {field!r}"
    return ""


def _some(names: Sequence[str]) -> list[str]:
    return [*names] if len(names) <= 6 else [*names[:5], "..."]
