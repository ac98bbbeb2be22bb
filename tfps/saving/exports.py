"""What a checkpoint is exported as: other programs read the tables as safetensors or Parquet.

Memory: one part of a table (64 MB) and its copy, whatever the size of the table. A file is written under another name
and renamed, so it is complete or not there, and nothing is overwritten.

Threading: the thread that exports.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfps.cluster import devices
from tfps.errors import CheckpointError, ConfigError
from tfps.saving import bundles
from tfps.saving.inspection import table_named
from tfps.saving.interface import Stored
from tfps.saving.manifest import SavedPart, SavedTable, SavedVariable, files_of

_PARTIAL = ".partial"


@dataclasses.dataclass(frozen=True)
class Export:
    """What is wanted of a checkpoint.

    Args:
        stored: the checkpoint.
        tables: the tables.
        dense: the variables of the model that are no tables; none if the user has named tables.
        slots: whether the slots of the tables are wanted too.
    """

    stored: Stored
    tables: Sequence[SavedTable]
    dense: Sequence[SavedVariable]
    slots: bool

    def columns(self, table: SavedTable) -> tuple[str, ...]:
        """Returns the names of the variables that are wanted of a table: the table, then its slots."""
        return table.columns if self.slots else table.columns[:1]

    def variable(self, name: str) -> SavedVariable:
        """Returns a variable of the checkpoint."""
        return self.stored.manifest.variable(name)


def choose(stored: Stored, names: Sequence[str] | None, slots: bool) -> Export:
    """Finds what a user wants of a checkpoint.

    Args:
        stored: the checkpoint.
        names: names of tables or of their layers; None for all tables, and the dense variables of the model.
        slots: whether the slots of the tables are wanted too.

    Raises:
        CheckpointError: it is a delta.
        ConfigError: there is no such table.
    """
    manifest = stored.manifest
    if manifest.base is not None:
        raise CheckpointError(
            f"{stored.path} has only the rows that changed since {manifest.base}, which cannot be exported. "
            "Valid: a complete checkpoint, which `tfps-checkpoint ls` shows without a base."
        )
    if names is None:
        dense = [one for one in manifest.variables if one.bundle is not None and one.name.startswith("model/")]
        return Export(stored, manifest.tables, dense, slots)
    chosen: dict[str, SavedTable] = {}
    for name in names:
        found = {table.columns[0]: table for table in table_named(manifest, name)}
        if not found:
            known = ", ".join(table.columns[0] for table in manifest.tables[:20]) or "none"
            raise ConfigError(f"`--tables` must name tables of the checkpoint. Received: {name!r}. Valid: {known}.")
        chosen |= found
    return Export(stored, tuple(chosen.values()), (), slots)


def read_part(
    export: Export, table: SavedTable, part: SavedPart
) -> tuple[np.ndarray[Any, Any], list[np.ndarray[Any, Any]]]:
    """Reads a part of a table.

    Returns:
        The ids of its rows, int64 [m], and the rows of each wanted column, [m, width].

    Raises:
        CheckpointError: a file is not what was written.
    """
    variables = [export.variable(name) for name in export.columns(table)]
    names = [*map(str, range(len(variables))), *[bundles.IDS] * part.has_ids]
    dtypes = [*(tf.as_dtype(one.dtype) for one in variables), *[tf.int64] * part.has_ids]
    shapes = [*((part.rows, one.shape[1]) for one in variables), *[(part.rows,)] * part.has_ids]
    values = _read(export.stored, part.bundle, names, dtypes, shapes)
    if part.has_ids:
        ids = values.pop()
    else:
        ids = table.routing.global_of(part.shard, np.arange(part.first, part.first + part.rows))
    numbered = not table.routing.takes_any_id
    if numbered and ids.size and not 0 <= ids.min() <= ids.max() < table.routing.rows:
        raise CheckpointError(f"{export.stored.path}/{part.bundle} is not what was written: its ids are out of range.")
    return ids, values


def read_dense(export: Export, variable: SavedVariable) -> np.ndarray[Any, Any]:
    """Reads a variable that is no table.

    Raises:
        CheckpointError: a file is not what was written.
    """
    assert variable.bundle is not None
    (value,) = _read(
        export.stored, variable.bundle, [variable.name], [tf.as_dtype(variable.dtype)], [tuple(variable.shape)]
    )
    return value


def _read(
    stored: Stored, bundle: str, names: list[str], dtypes: list[tf.DType], shapes: Sequence[tuple[int, ...]]
) -> list[np.ndarray[Any, Any]]:
    prefix = stored.fetch(bundle)
    try:
        bundles.check(devices.CHIEF, prefix, [stored.manifest.files[name] for name in files_of(bundle)])
        values = bundles.read(devices.CHIEF, prefix, names, dtypes)
    finally:
        stored.release(prefix)
    if any(tuple(value.shape) != shape for value, shape in zip(values, shapes, strict=True)):
        raise CheckpointError(f"{stored.path}/{bundle} is not what was written: a tensor has another shape.")
    return [value.numpy() for value in values]


def plain_name(name: str) -> str:
    """Returns the name of a file for a table: "model.items.embeddings" for "model/items/embeddings"."""
    # Names come from a file that somebody else may have made: no way out of the folder.
    return re.sub(r"[^\w.-]", ".", name).lstrip(".")


@contextlib.contextmanager
def new_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Provides the path at which a new file is written, and renames it when it is complete.

    Raises:
        CheckpointError: the file exists, or cannot be written.
    """
    partial = path.with_name(path.name + _PARTIAL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            raise CheckpointError(
                f"`--to` must be new, because nothing is overwritten. Received: {path}, which exists. "
                "Valid: another path; or remove it first."
            )
        try:
            yield partial
            # A link fails if the name exists, and a rename would overwrite it.
            os.link(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}.") from None
