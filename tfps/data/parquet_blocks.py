"""Reads row groups of Parquet files by pyarrow. No TensorFlow.

Threading: any thread.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfps.data.columns import STRING, Column
from tfps.data.retries import describe
from tfps.data.stored_files import Access, FileCache, StoredFile, broken, read_range
from tfps.errors import ConfigError, SourceError

_footers: FileCache[Any] = FileCache(64)
"""The metadata of files that were read here."""


class _RangeFile(io.RawIOBase):
    """A file for pyarrow that reads ranges.

    Args:
        file: the file.
        access: how to read it.
    """

    def __init__(self, file: StoredFile, access: Access) -> None:
        super().__init__()
        self._file, self._access, self._at = file, access, 0

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def seekable(self) -> bool:
        """Whether it can be read from any place."""
        return True

    def tell(self) -> int:
        """Returns the offset."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the offset."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Returns the next bytes."""
        end = self._file.size if size < 0 else min(self._at + size, self._file.size)
        data = read_range(self._file, self._at, end, self._access)
        self._at += len(data)
        return data


def footer(file: StoredFile, access: Access) -> Any:
    """Returns the metadata of a file.

    Raises:
        SourceError: it cannot be read, or is no Parquet file.
    """
    from pyarrow import parquet

    def read() -> Any:
        try:
            return parquet.read_metadata(_RangeFile(file, access))
        except SourceError:
            raise
        except (ValueError, OSError) as error:
            raise broken(file, "its footer", error) from None

    return _footers.get(file, read)


def group_bytes(metadata: Any) -> list[int]:
    """Returns the bytes of each row group of a file."""
    return [metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)]


def read_group(file: StoredFile, number: int, columns: Sequence[Column], access: Access) -> list[Any]:
    """Returns the cells of columns of one row group, arrays of pyarrow without nulls.

    Raises:
        SourceError: it cannot be read, or is broken.
    """
    from pyarrow import parquet

    metadata = footer(file, access)
    names = [column.name for column in columns]
    known = metadata.schema.to_arrow_schema().names
    for name in names:
        if known.count(name) != 1:
            count = f"{known.count(name)} columns" if name in known else "no column"
            raise broken(file, "its footer", f"it has {count} {name}")
    try:
        # All bytes of a column in one request, and neighbours together.
        source = parquet.ParquetFile(
            _RangeFile(file, access), metadata=metadata, pre_buffer=True, page_checksum_verification=True
        )
        table = source.read_row_group(number, columns=names, use_threads=False)
        return [column.fill(_cast(table.column(column.name), column, file, number)) for column in columns]
    except SourceError:
        raise
    except (ValueError, OSError, NotImplementedError) as error:
        raise broken(file, f"row group {number}", error) from None


def _cast(values: Any, column: Column, file: StoredFile, number: int) -> Any:
    """Returns the cells of a row group as the type that is wanted."""
    kind = _value_type(values.type)
    try:
        return values.cast(kind).cast(column.arrow_type())
    except (ValueError, NotImplementedError) as error:
        raise SourceError(
            f"the column {column.name!r} of {file.url!r} must be what is wanted, {_name(column)}. Received: {kind}, in "
            f"row group {number} ({describe(error)}). Valid: `columns` with a type that has all values of the file."
        ) from None


def _value_type(kind: Any) -> Any:
    """Returns the type of the values of a column, without the way in which they are stored."""
    import pyarrow

    return kind.value_type if pyarrow.types.is_dictionary(kind) else kind


def _name(column: Column) -> str:
    return column.dtype if column.width is None else f"lists of {column.width} {column.dtype}"


def types_of(file: StoredFile, access: Access) -> dict[str, Any]:
    """Returns pyarrow's types of the columns of a file by name.

    Raises:
        SourceError: it cannot be read, or is no Parquet file.
    """
    schema = footer(file, access).schema.to_arrow_schema()
    return {field.name: _value_type(field.type) for field in schema}


def _column(name: str, kind: Any) -> Column | None:
    import pyarrow

    types = pyarrow.types
    if types.is_fixed_size_list(kind):
        inner = _column(name, kind.value_type)
        return None if inner is None or inner.width is not None else Column(name, inner.dtype, width=kind.list_size)
    if any(test(kind) for test in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)):
        return Column(name, STRING)
    if types.is_timestamp(kind):
        # The number since 1970, in the unit of the file.
        return Column(name, "int64")
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return Column(name, np.dtype(kind.to_pandas_dtype()).name)
    return None


def choose(found: Mapping[str, Any], wanted: Mapping[str, Column | None] | None, url: str) -> tuple[Column, ...]:
    """Returns the columns to read.

    Args:
        found: the types of a file, by `types_of`.
        wanted: the columns that the user asks for, where None takes the type of the file; None for all.
        url: the file, for messages.

    Raises:
        ConfigError: a column is not there, has a type that TensorFlow has not, or cannot have the wanted one.
    """
    names = list(found) if wanted is None else list(wanted)
    chosen = []
    for name in names:
        if name not in found:
            raise ConfigError(f"`columns` must be of the file {url!r}. Received: {name!r}. Valid: {sorted(found)}.")
        own, column = None if wanted is None else wanted[name], _column(name, found[name])
        if own is not None:
            column = _as_wanted(own, column, found[name], url)
        if column is None:
            raise ConfigError(
                f"`columns` must have types that TensorFlow has. Received: column {name!r} of {url!r}, of type "
                f"{found[name]}. Valid: {sorted(one for one, kind in found.items() if _column(one, kind) is not None)}."
            )
        chosen.append(column)
    return tuple(chosen)


def _as_wanted(own: Column, column: Column | None, kind: Any, url: str) -> Column:
    """Returns the wanted column with the width of the file.

    Args:
        own: the column that a user asks for.
        column: that of the file; None if TensorFlow has not its type.
        kind: pyarrow's type in the file.
        url: the file, for messages.
    """
    import pyarrow

    if own.default is None and column is not None:
        own = dataclasses.replace(own, width=column.width)
    try:
        pyarrow.array([], kind).cast(own.arrow_type())
    except (ValueError, NotImplementedError):
        valid = "a column of another type" if column is None else repr(column.dtype)
        raise ConfigError(
            f"`columns` must have a type that column {own.name!r} of {url!r} can become. Received: {own.dtype}; the "
            f"file has {kind}. Valid: {valid}."
        ) from None
    return own
