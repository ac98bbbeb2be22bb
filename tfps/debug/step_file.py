"""The files of a dump: for each worker and step one file with arrays, and one JSON file that lists them.

    dump.json                                what was asked for
    worker-00001/step-000000012.npz          the arrays; or .parquet
    worker-00001/step-000000012.json         the index: an entry for each array, in the order of the step

The index is written last, so a step whose index is there is whole. A step that a worker runs again, after another one
was lost, replaces its files.

Threading: any. No TensorFlow.
"""

import dataclasses
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tfps.errors import DumpError

if TYPE_CHECKING:
    import pyarrow as pa

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

HEADER = "dump.json"
NPZ, PARQUET = "npz", "parquet"
FORMATS = (NPZ, PARQUET)
PARAMETER, ROWS, ACTIVATION, GRADIENT, ROW_GRADIENT = "parameter", "rows", "activation", "gradient", "row_gradient"
LOSS = "loss"
"""The name under which the loss is an output of a layer."""

_INDEX = re.compile(r"worker-(\d+)/step-(\d+)\.json$")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of a step.

    Args:
        layer: the path of the layer.
        kind: `PARAMETER`, `ROWS`, `ACTIVATION`, `GRADIENT` or `ROW_GRADIENT`.
        name: the name of the array in its layer.
        has_ids: whether it has a row for each of some ids, in another array.
    """

    layer: str
    kind: str
    name: str
    has_ids: bool = False

    @property
    def key(self) -> str:
        """The name of the array in its file."""
        return f"{self.kind}:{self.layer}:{self.name}"

    @property
    def ids_key(self) -> str:
        """The name of the array with the ids."""
        return f"{self.key}:ids"


@dataclasses.dataclass(frozen=True)
class Value:
    """An array of a step with its entry.

    Args:
        entry: the entry.
        values: the array; [m, dim] with ids.
        ids: its ids, ascending, int64 [m]; None without.
    """

    entry: Entry
    values: Array
    ids: Array | None = None

    def describe(self) -> dict[str, Any]:
        """Returns the entry as the index has it."""
        norm, not_finite = _norm(self.values)
        return {
            "layer": self.entry.layer,
            "kind": self.entry.kind,
            "name": self.entry.name,
            "shape": list(self.values.shape),
            "dtype": str(self.values.dtype),
            "norm": norm,
            "not_finite": not_finite,
            "key": self.entry.key,
            **({"ids": self.entry.ids_key} if self.entry.has_ids else {}),
        }


def _norm(values: Array) -> tuple[float, int]:
    """Returns the norm of the finite elements, and the number of the others."""
    flat = values.reshape(-1)
    # A dot product of float32 takes a tenth of the time of a conversion to float64.
    norm = float(np.linalg.norm(flat)) if flat.dtype == np.float32 else float("nan")
    if np.isfinite(norm):
        return norm, 0
    floats = flat.astype(np.float64)
    finite = np.isfinite(floats)
    return float(np.linalg.norm(floats[finite])), int(floats.size - np.count_nonzero(finite))


def make_values(entries: Sequence[Entry], arrays: Sequence[Array]) -> list[Value]:
    """Returns the values of a step from what its graph has sent.

    Args:
        entries: the entries.
        arrays: an array for each, and before it one of ids for those that have ids.
    """
    remaining = iter(arrays)
    return [_make_value(entry, next(remaining) if entry.has_ids else None, next(remaining)) for entry in entries]


def _make_value(entry: Entry, ids: Array | None, values: Array) -> Value:
    # numpy's files know no bfloat16, which has kind "V".
    values = values if values.dtype.kind in "fiub" else values.astype(np.float32)
    if ids is None:
        return Value(entry, values)
    # Lookups of one table repeat ids, and so do gradients.
    unique, first, inverse = np.unique(ids.reshape(-1), return_index=True, return_inverse=True)
    if entry.kind == ROWS:
        return Value(entry, values[first], unique)
    summed = np.zeros((len(unique), *values.shape[1:]), values.dtype)
    np.add.at(summed, inverse.reshape(-1), values)
    return Value(entry, summed, unique)


def step_path(worker: int, step: int) -> str:
    """Returns the path of the files of a step, without their ending."""
    return f"worker-{worker:05d}/step-{step:09d}"


def find_steps(paths: Sequence[str]) -> list[tuple[int, int]]:
    """Returns the (step, worker) of each index among the paths of files, sorted."""
    found = (_INDEX.search(path) for path in paths)
    return sorted((int(one[2]), int(one[1])) for one in found if one is not None)


def encode_index(values: Sequence[Value], worker: int, step: int, file: str, size: int) -> bytes:
    """Returns the index of a step.

    Args:
        values: the arrays.
        worker: the number of the worker.
        step: the number of the step.
        file: the path of the file with the arrays.
        size: its size in bytes.
    """
    entries = [value.describe() for value in values]
    fields = {"worker": worker, "step": step, "file": file, "bytes": size}
    # A line for each entry, so that a person and `grep` can read it. JSON has no NaN, and norms are finite.
    lines = ",\n  ".join(json.dumps(entry) for entry in entries)
    return f'{json.dumps(fields)[:-1]}, "entries": [\n  {lines}\n]}}\n'.encode()


def encode(values: Sequence[Value], file_format: str) -> bytes:
    """Returns the content of the file with the arrays.

    Args:
        values: the arrays.
        file_format: `NPZ` or `PARQUET`.
    """
    return _encode_npz(values) if file_format == NPZ else _encode_parquet(values)


def decode(data: bytes, file_format: str, path: str) -> dict[str, Array]:
    """Returns the arrays of a file by key.

    Raises:
        DumpError: the file is broken.
    """
    try:
        return _decode_npz(data) if file_format == NPZ else _decode_parquet(data)
    # zipfile, numpy and pyarrow have errors of many classes.
    except Exception as error:
        raise DumpError(f"{path} is broken: {error}.") from error


def _encode_npz(values: Sequence[Value]) -> bytes:
    arrays: dict[str, Array] = {}
    for value in values:
        if value.ids is not None:
            arrays[value.entry.ids_key] = value.ids
        arrays[value.entry.key] = value.values
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _decode_npz(data: bytes) -> dict[str, Array]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _schema() -> "pa.Schema":
    import pyarrow as pa

    # `values` has floats and bools, `integers` has integers: a float64 does not hold every int64.
    return pa.schema(
        [
            *((name, pa.string()) for name in ("layer", "kind", "name", "dtype")),
            ("shape", pa.list_(pa.int64())),
            ("ids", pa.list_(pa.int64())),
            ("values", pa.list_(pa.float64())),
            ("integers", pa.list_(pa.int64())),
        ]
    )


def _encode_parquet(values: Sequence[Value]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    columns: dict[str, list[Any]] = {name: [] for name in _schema().names}
    for value in values:
        flat, is_integer = value.values.reshape(-1), value.values.dtype.kind in "iu"
        row: Mapping[str, Any] = {
            "layer": value.entry.layer,
            "kind": value.entry.kind,
            "name": value.entry.name,
            "dtype": str(value.values.dtype),
            "shape": list(value.values.shape),
            "ids": value.ids,
            "values": None if is_integer else flat.astype(np.float64),
            "integers": flat.astype(np.int64) if is_integer else None,
        }
        for name, cell in row.items():
            columns[name].append(cell)
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns, schema=_schema()), buffer, use_dictionary=False)
    return buffer.getvalue()


def _decode_parquet(data: bytes) -> dict[str, Array]:
    from pyarrow import parquet

    arrays: dict[str, Array] = {}
    for row in parquet.read_table(io.BytesIO(data)).to_pylist():
        entry = Entry(row["layer"], row["kind"], row["name"], row["ids"] is not None)
        if entry.has_ids:
            arrays[entry.ids_key] = np.asarray(row["ids"], np.int64)
        cells = row["values"] if row["integers"] is None else row["integers"]
        arrays[entry.key] = np.asarray(cells).astype(row["dtype"]).reshape(row["shape"])
    return arrays
