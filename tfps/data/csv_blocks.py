"""Parses lines of CSV and TSV into columns, in bulk by pyarrow. No TensorFlow.

A line is what ends at a line feed, as for whoever cuts a file into ranges. pyarrow also breaks lines at carriage
returns, and joins lines between quotes, so each block is checked to have a row for each line.

Threading: any thread.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfps.data.columns import STRING, Column
from tfps.data.lines import Lines, Read, line_number
from tfps.data.parts import Part
from tfps.data.stored_files import broken
from tfps.errors import SourceError

_HEADER_BYTES = 1 << 20
"""The longest header line."""
_BLOCK_BYTES = 1 << 18
"""What pyarrow parses at a time: it fits the cache of a core."""
_BOM = b"\xef\xbb\xbf"
_OPEN_QUOTE = (
    "a quote is not closed in its line. A field must not have a line break; one that begins with a quote must be "
    "between quotes, with its own quotes doubled"
)
_LONE_RETURN = r"it has a carriage return (\r) that is not at its end, and would be read as several lines"


@dataclasses.dataclass(frozen=True)
class Table:
    """How the lines of a file are read.

    Args:
        names: the names of all fields of a line, in order.
        columns: the columns that are read.
        delimiter: the character between fields.
        has_quotes: whether a field may be between quotes; otherwise a quote is a character like any other.
    """

    names: tuple[str, ...]
    columns: tuple[Column, ...]
    delimiter: str
    has_quotes: bool

    def parse(self, data: bytes) -> list[Any]:
        """Returns the cells of the columns of some lines, arrays of pyarrow without nulls.

        Raises:
            ValueError: a line is wrong.
        """
        if b"\r" in data and data.count(b"\r") != data.count(b"\r\n") + data.endswith(b"\r"):
            raise ValueError(_LONE_RETURN)
        if not self.count_rows(data):
            return [column.no_cells() for column in self.columns]
        try:
            return self._parse(data, _BLOCK_BYTES)
        except ValueError:
            # A line may be longer than a block. If that is not it, the error comes again.
            return self._parse(data, len(data) + 1)

    def count_rows(self, data: bytes) -> int:
        """Returns the number of lines that are rows: all, or those that are not empty if a row has several fields."""
        count = data.count(b"\n") + (bool(data) and not data.endswith(b"\n"))
        has_empty = data.startswith((b"\n", b"\r")) or b"\n\n" in data or b"\n\r" in data
        if len(self.names) == 1 or not has_empty:
            return count
        return sum(bool(line.strip(b"\r")) for line in data.split(b"\n"))

    def split(self, line: bytes) -> tuple[str, ...]:
        """Returns the fields of one line.

        Raises:
            ValueError: a quote is not closed.
        """
        return split_line(line, self.delimiter, self.has_quotes)

    def _parse(self, data: bytes, block_bytes: int) -> list[Any]:
        from pyarrow import csv as arrow_csv

        # Threads parse several ranges at once anyway.
        read = arrow_csv.ReadOptions(column_names=self.names, block_size=block_bytes, use_threads=False)
        convert = arrow_csv.ConvertOptions(
            column_types={column.name: _parsed(column).arrow_type() for column in self.columns},
            include_columns=[column.name for column in self.columns],
            null_values=[""],
            strings_can_be_null=True,
            # A quoted empty string is a value.
            quoted_strings_can_be_null=False,
        )
        parse = arrow_csv.ParseOptions(
            delimiter=self.delimiter,
            quote_char='"' if self.has_quotes else False,
            # The only cell of a line may be empty.
            ignore_empty_lines=len(self.names) > 1,
        )
        table = arrow_csv.read_csv(io.BytesIO(data), read, parse, convert)
        rows = self.count_rows(data)
        if table.num_rows != rows:
            raise ValueError(f"{rows} lines have {table.num_rows} rows")
        # An open quote joins its line with the next one. Only that of the last line does not change their number.
        if self.has_quotes and _is_open(data[data.rstrip(b"\r\n").rfind(b"\n") + 1 :], self.delimiter):
            raise ValueError(_OPEN_QUOTE)
        return [_parsed(column).fill(table.column(column.name)).cast(column.arrow_type()) for column in self.columns]


def _parsed(column: Column) -> Column:
    """Returns the column as pyarrow parses it: it has no text of float16."""
    return dataclasses.replace(column, dtype="float32") if column.dtype == "float16" else column


def parse_lines(part: Part, lines: Lines, table: Table, read: Read) -> list[Any]:
    """Returns the cells of the columns of some lines of a file.

    Raises:
        SourceError: a line is wrong. The message has its number.
    """
    try:
        return table.parse(lines.data)
    except (ValueError, OSError) as error:
        raise _locate(part, lines, table, read, error) from None


def read_header(part: Part, delimiter: str, has_quotes: bool, read: Read) -> tuple[str, ...]:
    """Returns the names in the first line of a file.

    Raises:
        SourceError: it has no such line.
    """
    data = read(0, _HEADER_BYTES)
    line, found, _ = data.partition(b"\n")
    if not found and len(data) == _HEADER_BYTES:
        raise broken(part.file, "line 1", f"the header is longer than {_HEADER_BYTES >> 20} MiB")
    if not line.removeprefix(_BOM).strip():
        raise broken(part.file, "line 1", "it is empty, but must have the names of the columns, by `header=True`")
    try:
        return split_line(line.removeprefix(_BOM), delimiter, has_quotes)
    except ValueError as error:
        raise broken(part.file, "line 1", str(error)) from None


def after_header(lines: Lines) -> Lines:
    """Returns lines from the begin of a file without the first one."""
    line, found, rest = lines.data.partition(b"\n")
    return dataclasses.replace(lines, data=rest, begin=lines.begin + len(line) + len(found))


def without_mark(lines: Lines) -> Lines:
    """Returns lines without the mark that may stand at the begin of a file in UTF-8."""
    if lines.begin or not lines.data.startswith(_BOM):
        return lines
    return dataclasses.replace(lines, data=lines.data[len(_BOM) :], begin=len(_BOM))


def split_line(line: bytes, delimiter: str, has_quotes: bool) -> tuple[str, ...]:
    """Returns the fields of one line.

    Raises:
        ValueError: a quote is not closed.
    """
    text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
    if not has_quotes:
        return tuple(text.split(delimiter))
    if _is_open(line, delimiter):
        raise ValueError(_OPEN_QUOTE)
    try:
        # An empty line has one empty field.
        return tuple(next(csv.reader([text], delimiter=delimiter), ())) or ("",)
    except csv.Error as error:
        raise ValueError(str(error)) from None


def _is_open(line: bytes, delimiter: str) -> bool:
    """Whether a field of a line begins with a quote that is not closed."""
    if b'"' not in line:
        return False
    one = re.escape(delimiter.encode())
    field = rb'(?:"[^"]*(?:""[^"]*)*(?P<end>"?)[^' + one + rb"]*|[^" + one + rb"]*)(?:" + one + rb"|\Z)"
    return any(found["end"] == b"" for found in re.finditer(field, line.rstrip(b"\r\n")))


def _locate(part: Part, lines: Lines, table: Table, read: Read, error: Exception) -> SourceError:
    """Returns the error for the first line that is wrong."""
    at = 0
    for text in lines.data.split(b"\n"):
        # What is behind the last line break is a line if it has a character.
        line = lines.data[at : at + len(text) + 1]
        reason = _reason(line.removeprefix(_BOM) if lines.begin + at == 0 else line, table) if line else ""
        if reason:
            number = line_number(lines.begin + at, read)
            return broken(part.file, f"line {number}", reason)
        at += len(line)
    return broken(part.file, f"the lines from byte {lines.begin}", error)


def _reason(line: bytes, table: Table) -> str:
    """Returns what is wrong with a line; empty if nothing is."""
    if b"\r" in line.removesuffix(b"\n").removesuffix(b"\r"):
        return _LONE_RETURN
    if not table.count_rows(line):
        return ""
    try:
        fields = table.split(line)
    except ValueError as error:
        return str(error)
    if len(fields) != len(table.names):
        return f"it has {len(fields)} fields instead of {len(table.names)} ({', '.join(_some(table.names))})"
    for column in table.columns:
        one = dataclasses.replace(table, columns=(column,))
        try:
            one.parse(line)
        except (ValueError, OSError):
            return _wrong_cell(column, fields[table.names.index(column.name)])
    return ""


def _wrong_cell(column: Column, field: str) -> str:
    """Returns what is wrong with a cell."""
    if field:
        article = "an" if column.dtype.startswith("int") else "a"
        return f"the column {column.name!r} must be {article} {column.dtype}. Received: {field!r}"
    default = "" if column.dtype == STRING else np.dtype(column.dtype).type(0).item()
    return (
        f"the column {column.name!r} must not be empty: it has type {column.dtype} and no default. Valid: "
        f"columns={{{column.name!r}: {default!r}}}"
    )


def _some(names: Sequence[str]) -> list[str]:
    return [*names] if len(names) <= 6 else [*names[:5], "..."]
