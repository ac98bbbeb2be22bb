"""Moves rows between a table that grows and Parquet files, or an `Embedding` with numbered rows.

A file has the columns `id` (int64) and `embedding` (a list of floats), as `tfps-checkpoint export` writes them too.
Rows cross the chief in chunks.
"""

import os
import pathlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, TypeAlias

import keras
import numpy as np

from tfps.checks import check_type
from tfps.embedding.dynamic_table import DynamicTable
from tfps.embedding.table import Table
from tfps.errors import ConfigError, InputFileError

_CHUNK_ROWS = 1 << 17
Rows: TypeAlias = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
"""Ids, int64 [m], and their rows, float32 [m, dim]."""


def write_parquet(table: DynamicTable, path: str | os.PathLike[str]) -> int:
    """Writes all rows of a table into a new Parquet file, and returns their number.

    Raises:
        ConfigError: pyarrow is missing.
        InputFileError: the file exists, or cannot be written.
    """
    pa, parquet = _arrow()
    to = pathlib.Path(path)
    if to.exists():
        raise InputFileError(f"`path` must be a new file. Received: {str(to)!r}, which exists.")
    fields = [pa.field("id", pa.int64(), nullable=False), pa.field("embedding", pa.list_(pa.float32(), table.dim))]
    # In the folder of the file: a rename within one file system takes effect at once.
    partial = to.with_name(f".{to.name}.partial")
    count = 0
    try:
        # Renamed at the end: a file that is there is whole.
        with parquet.ParquetWriter(partial, pa.schema(fields, {"table": table.name}), use_dictionary=False) as writer:
            for chunk in table.scan((), _CHUNK_ROWS):
                floats = pa.array(chunk.rows.numpy().reshape(-1))
                lists = pa.FixedSizeListArray.from_arrays(floats, table.dim)
                writer.write_table(pa.Table.from_arrays([pa.array(chunk.ids), lists], schema=pa.schema(fields)))
                count += len(chunk.ids)
        partial.rename(to)
    except OSError as error:
        raise InputFileError(f"cannot write {str(to)!r}: {error}.") from error
    finally:
        partial.unlink(missing_ok=True)
    return count


def read_parquet(table: DynamicTable, path: str | os.PathLike[str]) -> int:
    """Gives a table the rows of a Parquet file, and returns their number. The whole file is checked first.

    Raises:
        ConfigError: pyarrow is missing; or the file has other columns or another width, or a row is missing or is not
            finite. The table is then as before.
        InputFileError: the file cannot be read.
    """
    # Twice: a bad row must not leave half of the file in the table.
    known: list[np.ndarray[Any, Any]] = []
    for ids, rows in _read(path, table.dim):
        known.append(ids)
        if not np.isfinite(rows).all():
            bad = ids[~np.isfinite(rows).all(axis=1)][0]
            raise ConfigError(f"rows of {str(path)!r} must be finite. Received: the row of id {bad}, which is not.")
    every, counts = np.unique(np.concatenate(known) if known else np.zeros(0, np.int64), return_counts=True)
    if (counts > 1).any():
        raise ConfigError(f"{str(path)!r} must have each id once. Received: id {every[counts > 1][0]} more than once.")
    count = 0
    for ids, rows in _read(path, table.dim):
        table.assign_rows(ids, rows)
        count += len(ids)
    return count


def _read(path: str | os.PathLike[str], dim: int) -> Iterator[Rows]:
    pa, parquet = _arrow()
    try:
        # Files without checksums are read as well; those that have them are checked.
        file = parquet.ParquetFile(path, page_checksum_verification=True)
        for name in ("id", "embedding"):
            if name not in file.schema_arrow.names:
                raise ConfigError(
                    f"{str(path)!r} must have the columns 'id' and 'embedding'. Received: {file.schema_arrow.names}."
                )
        for batch in file.iter_batches(_CHUNK_ROWS, columns=["id", "embedding"]):
            yield _to_rows(batch, str(path), dim)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputFileError(f"cannot read {str(path)!r}: {error}.") from error


def _to_rows(batch: Any, path: str, dim: int) -> Rows:
    pa, _ = _arrow()
    ids, lists = batch.column("id"), batch.column("embedding")
    is_list = any(
        check(lists.type) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    )
    if not pa.types.is_integer(ids.type) or pa.types.is_uint64(ids.type) or not is_list:
        raise ConfigError(
            f"the columns of {path!r} must be int64 and a list of floats. Received: {ids.type} and {lists.type}."
        )
    if ids.null_count or lists.null_count:
        raise ConfigError(f"each row of {path!r} must have an id and an embedding. Received: a row without one.")
    widths = np.unique(np.asarray(lists.value_lengths()))
    if widths.size and widths.tolist() != [dim]:
        raise ConfigError(f"embeddings of {path!r} must have {dim} floats, as the table. Received: {widths.tolist()}.")
    rows = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, dim)
    return ids.to_numpy().astype(np.int64), rows


def copy_to_growing(source: keras.layers.Embedding, table: DynamicTable) -> int:
    """Gives a table that grows the rows of an `Embedding`, under their numbers; returns how many there are.

    Raises:
        ConfigError: the layer is not built, or its rows have another width.
    """
    value = _value_of(source)
    if source.output_dim != table.dim:
        raise ConfigError(f"rows of `source` must have {table.dim} floats. Received: {source.output_dim}.")
    start = 0
    for block in value.blocks(_CHUNK_ROWS) if isinstance(value, Table) else [np.asarray(value)]:
        table.assign_rows(np.arange(start, start + len(block)), block)
        start += len(block)
    return start


def copy_from_growing(table: DynamicTable, target: keras.layers.Embedding) -> int:
    """Overwrites the rows of an `Embedding` whose numbers a table that grows has as ids; returns how many.

    Raises:
        ConfigError: the layer is not built, its rows have another width, or an id is no row of it. The layer is then as
            before.
    """
    value = _value_of(target)
    if target.output_dim != table.dim:
        raise ConfigError(f"rows of `target` must have {table.dim} floats. Received: {target.output_dim}.")
    for chunk in table.scan((), _CHUNK_ROWS):
        # All ids are checked before the first row is written; the table is read twice for it.
        outside = chunk.ids[(chunk.ids < 0) | (chunk.ids >= target.input_dim)]
        if outside.size:
            raise ConfigError(
                f"ids must be at least 0 and below the {target.input_dim} rows of `target`. Received: {outside[0]}."
            )
    count = 0
    # A plain variable is assigned as a whole, once; a table on servers takes rows.
    whole = None if isinstance(value, Table) else np.array(value)
    for chunk in table.scan((), _CHUNK_ROWS):
        if whole is None:
            value.assign_rows(chunk.ids, chunk.rows.numpy())
        else:
            whole[chunk.ids] = chunk.rows.numpy()
        count += len(chunk.ids)
    if whole is not None:
        target.embeddings.assign(whole)
    return count


def _value_of(layer: keras.layers.Embedding) -> Any:
    check_type("layer", layer, keras.layers.Embedding, "a keras.layers.Embedding")
    if not layer.built:
        raise ConfigError(f"layer {layer.name!r} must be built: call it, or the model, first.")
    value = layer.embeddings._value
    if isinstance(value, DynamicTable):
        raise ConfigError(f"layer {layer.name!r} must be an Embedding with numbered rows. Received: one that grows.")
    return value


def _arrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError("Parquet needs pyarrow. Valid: pip install tfps[parquet].") from None
    return pyarrow, parquet
