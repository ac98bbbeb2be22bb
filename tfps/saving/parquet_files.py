"""Writes the tables of a checkpoint as Parquet: one file a table, one row group for each part of its rows.

A file has the columns `id` (int64), `embedding` (a list of numbers), and one for each slot that is asked for. Ids
ascend within a row group; the groups follow one another as the parts of the servers do.

Threading: the thread that exports.
"""

import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from tfps.errors import ConfigError, UnsupportedError
from tfps.saving.exports import Export, new_file, plain_name, read_part
from tfps.saving.inspection import slot_name
from tfps.saving.manifest import SavedTable

if TYPE_CHECKING:
    import pyarrow as pa

_DTYPES = ("float16", "float32", "float64")


def write(export: Export, to: pathlib.Path) -> list[pathlib.Path]:
    """Writes the files.

    Args:
        export: what is written. Dense variables are left out: Parquet holds rows.
        to: the folder of the files; a path that ends in ".parquet" is the file of a single table.

    Returns:
        The paths of the files.

    Raises:
        CheckpointError: the checkpoint is broken, or a file exists or cannot be written.
        ConfigError: pyarrow is missing, or the path is not one for these tables.
        UnsupportedError: the checkpoint has no tables, or a table is not of floating-point numbers.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ConfigError(
            "`--format parquet` needs pyarrow. Valid: pip install tfps[parquet], or `--format safetensors`."
        ) from None
    if not export.tables:
        raise UnsupportedError(
            f"{export.stored.path} has no tables, and Parquet holds rows. Valid: `--format safetensors`."
        )
    for variable in (export.variable(name) for table in export.tables for name in export.columns(table)):
        if variable.dtype not in _DTYPES:
            raise UnsupportedError(
                f"tables are exported to Parquet as {', '.join(_DTYPES)}. Received: {variable.name!r} of "
                f"{variable.dtype}. Valid: `--format safetensors`."
            )
    paths = _paths(export, to)
    for table, path in zip(export.tables, paths, strict=True):
        _write_table(export, table, path)
    return paths


def _paths(export: Export, to: pathlib.Path) -> list[pathlib.Path]:
    if to.suffix == ".parquet":
        if len(export.tables) > 1:
            raise ConfigError(
                f"`--to` must be a folder for {len(export.tables)} tables. Received: {str(to)!r}. "
                "Valid: a folder; or one table by `--tables`."
            )
        return [to]
    paths = [to / f"{plain_name(table.columns[0])}.parquet" for table in export.tables]
    if len(set(paths)) < len(paths):
        raise ConfigError(
            "two tables have names that differ only in signs that no file may have. Valid: one by `--tables`."
        )
    return paths


def _write_table(export: Export, table: SavedTable, path: pathlib.Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    names = export.columns(table)
    titles = ["embedding", *(slot_name(table, name) for name in names[1:])]
    lists = [pa.list_(pa.from_numpy_dtype(np.dtype(export.variable(name).dtype))) for name in names]
    fields = [pa.field("id", pa.int64(), nullable=False), *map(pa.field, titles, lists)]
    schema = pa.schema(fields, {"table": names[0], "rows": str(table.routing.rows)})
    with (
        new_file(path) as partial,
        # Values of embeddings hardly repeat, so a dictionary of them would cost memory and save nothing.
        parquet.ParquetWriter(
            partial, schema, use_dictionary=False, write_statistics=["id"], write_page_checksum=True
        ) as writer,
    ):
        for part in sorted(table.parts, key=lambda part: (part.first, part.shard)):
            ids, columns = read_part(export, table, part)
            # Rows of a table that grows may come in any order; sorting copies them.
            if np.any(np.diff(ids) < 0):
                order = np.argsort(ids, kind="stable")
                ids, columns = ids[order], [rows[order] for rows in columns]
            arrays = [pa.array(ids), *map(_lists, columns)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=max(1, len(ids)))


def _lists(rows: np.ndarray[Any, Any]) -> "pa.ListArray":
    """Returns rows as lists, without a copy of the values."""
    import pyarrow as pa

    count, width = rows.shape
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(width)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.reshape(-1)))
