"""Reads row groups of Parquet files by pyarrow. No TensorFlow.

Threading: any thread.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfps.data.columns import STRING, Column
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
    if missing := set(names) - set(metadata.schema.to_arrow_schema().names):
        raise broken(file, "its footer", f"it has no column {', '.join(sorted(missing))}")
    try:
        # All bytes of a column in one request, and neighbours together.
        source = parquet.ParquetFile(_RangeFile(file, access), metadata=metadata, pre_buffer=True)
        table = source.read_row_group(number, columns=names, use_threads=False)
        return [column.fill(_cast(table.column(column.name), column)) for column in columns]
    except SourceError:
        raise
    except (ValueError, OSError, NotImplementedError) as error:
        raise broken(file, f"row group {number}", error) from None


def _cast(values: Any, column: Column) -> Any:
    import pyarrow

    if pyarrow.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    return values.cast(column.arrow_type())


def columns_of(file: StoredFile, access: Access) -> dict[str, Column | None]:
    """Returns the columns of a file by name; None for those of a type that TensorFlow has not.

    Raises:
        SourceError: it cannot be read, or is no Parquet file.
    """
    schema = footer(file, access).schema.to_arrow_schema()
    return {field.name: _column(field.name, field.type) for field in schema}


def _column(name: str, kind: Any) -> Column | None:
    import pyarrow

    types = pyarrow.types
    if types.is_fixed_size_list(kind):
        inner = _column(name, kind.value_type)
        return None if inner is None or inner.width is not None else Column(name, inner.dtype, width=kind.list_size)
    if types.is_dictionary(kind):
        return _column(name, kind.value_type)
    if any(test(kind) for test in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)):
        return Column(name, STRING)
    if types.is_timestamp(kind):
        # The number since 1970, in the unit of the file.
        return Column(name, "int64")
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return Column(name, np.dtype(kind.to_pandas_dtype()).name)
    return None


def choose(found: dict[str, Column | None], wanted: dict[str, Column | None] | None, url: str) -> tuple[Column, ...]:
    """Returns the columns to read.

    Args:
        found: those of a file.
        wanted: those that the user asks for, where None takes the type of the file; None for all.
        url: the file, for messages.

    Raises:
        ConfigError: a column is not there, or has a type that TensorFlow has not.
    """
    names = list(found) if wanted is None else list(wanted)
    chosen = []
    for name in names:
        own = None if wanted is None else wanted[name]
        if name not in found:
            raise ConfigError(f"`columns` must be of the file {url!r}. Received: {name!r}. Valid: {sorted(found)}.")
        column = own or found[name]
        if column is None:
            raise ConfigError(
                f"`columns` must have types that TensorFlow has. Received: {name!r} of {url!r}, which has not. Valid: "
                f"{sorted(one for one, kind in found.items() if kind is not None)}."
            )
        chosen.append(column)
    return tuple(chosen)
