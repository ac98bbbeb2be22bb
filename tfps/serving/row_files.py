"""The content of the files of a version: rows and evicted ids as Parquet, dense variables as a `.npz`.

A file of rows has the columns `table` (string), `key` (int64) and `embedding` (a list of float32). Each of its row
groups has rows of one table. A file of evicted ids has the first two columns.

Threading: pure functions, any thread. Memory: a file and its content.
"""

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfps.errors import ConfigError, ExportError

if TYPE_CHECKING:
    import pyarrow as pa

Ids = npt.NDArray[np.int64]
Rows = npt.NDArray[np.float32]


def load_pyarrow() -> ModuleType:
    """Imports pyarrow with its Parquet module.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ConfigError("exports for serving need pyarrow. Valid: pip install tfps[serving].") from None
    return pyarrow


def encode_rows(pieces: Sequence[tuple[str, Ids, Rows]]) -> bytes:
    """Returns a file of rows.

    Args:
        pieces: for each row group the name of its table, its ids, int64 [m], and its rows, float32 [m, dim].
    """
    pa = load_pyarrow()
    schema = _schema(pa, pa.field("embedding", pa.list_(pa.field("element", pa.float32(), nullable=False))))
    return _encode(schema, [[*_keys(pa, name, ids), _lists(rows)] for name, ids, rows in pieces])


def encode_evicted(pieces: Sequence[tuple[str, Ids]]) -> bytes:
    """Returns a file of evicted ids: for each row group the name of its table and its ids, int64 [m]."""
    pa = load_pyarrow()
    return _encode(_schema(pa), [_keys(pa, name, ids) for name, ids in pieces])


def decode_rows(data: bytes, path: str, dims: Mapping[str, int]) -> Iterator[tuple[str, Ids, Rows]]:
    """Yields what `encode_rows` got.

    Args:
        data: the content of the file.
        path: its path, for messages.
        dims: the width of each table.

    Raises:
        ExportError: it is not such a file.
    """
    for name, group in _decode(data, path, dims):
        keys, values = group.column("key").to_numpy(), _flat(group.column("embedding"))
        if values.size != keys.size * dims[name]:
            raise ExportError(f"{path} is broken: table {name!r} has rows of another width than {dims[name]}.")
        yield name, keys, values.reshape(keys.size, dims[name])


def decode_evicted(data: bytes, path: str, dims: Mapping[str, int]) -> Iterator[tuple[str, Ids]]:
    """Yields what `encode_evicted` got; see `decode_rows`."""
    for name, group in _decode(data, path, dims):
        yield name, group.column("key").to_numpy()


def encode_dense(values: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """Returns a file of dense variables, by name."""
    buffer = io.BytesIO()
    # Not `np.savez`, whose arguments are names: a variable may be called "file".
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, value in values.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(value), allow_pickle=False)
    return buffer.getvalue()


def decode_dense(data: bytes, path: str) -> dict[str, np.ndarray[Any, Any]]:
    """Returns what `encode_dense` got.

    Raises:
        ExportError: it is not such a file.
    """
    try:
        # A pickle could run code; without pickles a file is numbers alone.
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ExportError(f"{path} is broken: {error}.") from None


def crc32(data: bytes) -> int:
    """Returns the checksum of a file."""
    return zlib.crc32(data)


def _schema(pa: ModuleType, *more: "pa.Field") -> "pa.Schema":
    return pa.schema([pa.field("table", pa.string(), False), pa.field("key", pa.int64(), False), *more])


def _keys(pa: ModuleType, name: str, ids: Ids) -> list["pa.Array"]:
    return [pa.repeat(name, len(ids)), pa.array(ids)]


def _lists(rows: Rows) -> "pa.ListArray":
    """Returns rows as lists, without a copy of the values."""
    pa = load_pyarrow()
    count, width = rows.shape
    # 32 bits are enough: a file has about 32 MB.
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(width)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.reshape(-1)))


def _encode(schema: "pa.Schema", groups: Sequence[Sequence["pa.Array"]]) -> bytes:
    pa = load_pyarrow()
    sink = pa.BufferOutputStream()
    # Values of embeddings hardly repeat, so compression would cost time and save nothing. The name of the table
    # repeats.
    with pa.parquet.ParquetWriter(
        sink, schema, compression="none", use_dictionary=["table"], write_statistics=False
    ) as writer:
        for arrays in groups:
            arrays = [array.cast(field.type) for array, field in zip(arrays, schema, strict=True)]
            table = pa.Table.from_arrays(arrays, schema=schema)
            writer.write_table(table, row_group_size=max(1, len(table)))
    return bytes(sink.getvalue())


def _decode(data: bytes, path: str, dims: Mapping[str, int]) -> Iterator[tuple[str, "pa.Table"]]:
    """Yields the name of the table of each row group, and the row group."""
    pa = load_pyarrow()
    try:
        file = pa.parquet.ParquetFile(pa.BufferReader(data), read_dictionary=["table"])
        for number in range(file.num_row_groups):
            group = file.read_row_group(number, use_threads=False).combine_chunks()
            names = group.column("table").unique().to_pylist()
            if not names:
                continue
            if len(names) > 1 or names[0] not in dims:
                raise ExportError(f"{path} is broken: a row group has rows of {names}, which is not one known table.")
            yield names[0], group
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ExportError(f"{path} is broken: {error}.") from None


def _flat(column: "pa.ChunkedArray") -> Rows:
    """Returns the values of lists, one after the other."""
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return chunks[0] if len(chunks) == 1 else np.concatenate([np.zeros(0, np.float32), *chunks])
