"""Writes a checkpoint as one safetensors file: a small JSON header, then the raw values of each tensor.

The library writes a file from tensors that are all in memory, so this writes the documented format itself: 8 bytes with
the length of the header (little-endian), the header, and the values without gaps. Each part of a table is written to
the places of its rows in the file, in the order of ids, whatever server had them.

Threading: the thread that exports.
"""

import json
import math
import mmap
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfps.errors import UnsupportedError
from tfps.saving.exports import Export, new_file, read_dense, read_part
from tfps.saving.inspection import itemsize
from tfps.saving.manifest import SavedVariable

NAME = "model.safetensors"
"""The file that is written into a folder."""
_TYPES = {
    "bool": "BOOL",
    "bfloat16": "BF16",
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
}
_ALIGNMENT = 8


def write(export: Export, to: pathlib.Path) -> list[pathlib.Path]:
    """Writes the file.

    Args:
        export: what is written.
        to: the path of the file; a path that does not end in ".safetensors" is the folder of `NAME`.

    Returns:
        The path of the file.

    Raises:
        CheckpointError: the checkpoint is broken, or the file exists or cannot be written.
        UnsupportedError: a variable has a dtype that the format lacks, or a table grows.
    """
    growing = [table.columns[0] for table in export.tables if table.routing.takes_any_id]
    if growing:
        raise UnsupportedError(
            f"safetensors has matrices, and table {growing[0]!r} grows: its ids are no row numbers. "
            "Valid: `--format parquet`, or `--tables` with other tables."
        )
    path = to if to.suffix == ".safetensors" else to / NAME
    variables = [*(export.variable(name) for table in export.tables for name in export.columns(table)), *export.dense]
    header, starts = _header(export, variables)
    size = len(header) + sum(map(_bytes, variables))
    with new_file(path) as partial, open(partial, "w+b") as file:
        # Rows that a growing table lacks stay zeros. A full disk is an error here; in a map it would kill the process.
        _reserve(file.fileno(), size)
        file.write(header)
        file.flush()
        # An empty file cannot be mapped, and this one has a header.
        with mmap.mmap(file.fileno(), size) as mapped:
            for name, values, ids in _values(export):
                _write_values(mapped, export.variable(name), len(header) + starts[name], values, ids)
                # What was written leaves the memory of this process, and goes to the disk in time.
                mapped.madvise(mmap.MADV_DONTNEED)
    return [path]


def _reserve(descriptor: int, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OverflowError:
        # Somebody has written a manifest with such a table.
        raise OSError(f"no file has {size} bytes") from None


def _values(export: Export) -> Iterator[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any] | None]]:
    """Yields pieces of variables: the name, the values, and their rows; None for a whole variable."""
    for table in export.tables:
        for part in table.parts:
            ids, columns = read_part(export, table, part)
            yield from ((name, rows, ids) for name, rows in zip(export.columns(table), columns, strict=True))
    for variable in export.dense:
        yield variable.name, read_dense(export, variable), None


def _write_values(
    mapped: mmap.mmap,
    variable: SavedVariable,
    start: int,
    values: np.ndarray[Any, Any],
    ids: np.ndarray[Any, Any] | None,
) -> None:
    if not values.size:
        return
    # Bytes and not numbers, because the buffer of a map knows no bfloat16.
    raw = np.ascontiguousarray(values).view(np.uint8) if values.ndim else values.reshape(1).view(np.uint8)
    whole = np.frombuffer(mapped, np.uint8, _bytes(variable), start)
    if ids is None:
        whole[:] = raw.reshape(-1)
    else:
        whole.reshape(variable.shape[0], -1)[ids] = raw.reshape(len(ids), -1)


def _header(export: Export, variables: list[SavedVariable]) -> tuple[bytes, dict[str, int]]:
    """Returns the header with its length before it, and the place of each variable after it."""
    manifest = export.stored.manifest
    fields: dict[str, object] = {
        "__metadata__": {"format": "tf", "step": str(manifest.step), "created": manifest.created}
    }
    starts, place = {}, 0
    # The library asks that tensors have aligned places, so those with the widest elements come first.
    for variable in sorted(variables, key=lambda one: -itemsize(one.dtype)):
        if variable.dtype not in _TYPES:
            raise UnsupportedError(
                f"safetensors has no dtype {variable.dtype}. Received: variable {variable.name!r}. "
                "Valid: `--tables` with tables of numbers."
            )
        end = place + _bytes(variable)
        fields[variable.name] = {
            "dtype": _TYPES[variable.dtype],
            "shape": list(variable.shape),
            "data_offsets": [place, end],
        }
        starts[variable.name], place = place, end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, starts


def _bytes(variable: SavedVariable) -> int:
    return math.prod(variable.shape) * itemsize(variable.dtype)
