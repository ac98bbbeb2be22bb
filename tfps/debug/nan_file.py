"""The files of the first step of a worker whose loss or gradients are not finite.

    first_nan.json                 says that the folder is one of `FirstNaN`
    worker-00001/first-nan.npz     the batch, the parameters, the rows that the step read, and its gradients
    worker-00001/first-nan.json    the step, its first layer, the row ids, and an entry for each value

Threading: any. No TensorFlow.
"""

import dataclasses
import functools
import io
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfps.debug.folder import DumpFolder, open_folder
from tfps.debug.step_file import ACTIVATION, PARAMETER, Array, Entry, Value, make_values
from tfps.errors import DumpError, TfpsError

HEADER = "first_nan.json"
FORMAT = "tfps-first-nan"
_NAME = "first-nan"


@dataclasses.dataclass(frozen=True)
class NanSettings:
    """What a worker knows of the callback that saves its first bad step.

    Args:
        key: a key of the callback that no other one has.
        url: the folder.
        header: the content of `HEADER`.
        layers: the paths of the layers of the model, in order.
        batch: the description of a batch.
        batch_tensors: the number of its tensors.
    """

    key: str
    url: str
    header: str
    layers: Sequence[str]
    batch: Mapping[str, Any]
    batch_tensors: int


@dataclasses.dataclass(frozen=True)
class SavedStep:
    """A step that was saved.

    Args:
        path: where it is.
        worker: the number of the worker.
        step: the number of the step.
        layer: the path of the first layer that has a value which is not finite, in the order of the step.
        kind: the kind of this value.
        row_ids: for each layer, the ids of rows, or of gradients of rows, that are not finite.
        layers: the paths of the layers of the model, in order.
        batch: the description of the batch.
        batch_arrays: the arrays of the batch.
        values: all values but outputs of layers.
        bad: the (layer, kind, name) of each value that is not finite, outputs included, in order.
    """

    path: str
    worker: int
    step: int
    layer: str
    kind: str
    row_ids: Mapping[str, Sequence[int]]
    layers: Sequence[str]
    batch: dict[str, Any]
    batch_arrays: Sequence[Array]
    values: Sequence[Value]
    bad: Sequence[tuple[str, str, str]]


def encode_setup(settings: NanSettings, entries: Sequence[Entry]) -> str:
    """Returns the first argument of `save_step`."""
    return json.dumps([dataclasses.asdict(settings), [dataclasses.astuple(entry) for entry in entries]])


def read_saved(url: str, worker: int | None = None) -> SavedStep:
    """Reads the step that a worker has saved; by default the earliest of all workers.

    Raises:
        DumpError: there is none, or it is broken.
    """
    folder = open_folder(url)
    if not folder.exists(HEADER):
        raise DumpError(f"{folder.path} must be a folder of `tfps.callbacks.FirstNaN`. Received: one without {HEADER}.")
    workers = [one for one in folder.names() if one.startswith("worker-") and folder.exists(f"{one}/{_NAME}.json")]
    found = [_read_index(folder, f"{one}/{_NAME}.json") for one in workers]
    chosen = [one for one in found if worker in (None, one["worker"])]
    if not chosen:
        who = "any worker" if worker is None else f"worker {worker}"
        raise DumpError(f"{folder.path} has no step of {who}: no loss or gradient was NaN or infinite.")
    return _read_step(folder, min(chosen, key=lambda one: (one["step"], one["worker"])))


def _read_index(folder: DumpFolder, name: str) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = json.loads(folder.read(name))
        return fields | {"file": name.removesuffix("json") + "npz", "step": int(fields["step"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DumpError(f"{folder.path}/{name} is broken: {error!r}.") from None


def _read_step(folder: DumpFolder, fields: Mapping[str, Any]) -> SavedStep:
    path = f"{folder.path}/{fields['file']}"
    data = folder.read(str(fields["file"]))
    # zipfile and numpy have errors of many classes.
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        entries = [Entry(*one) for one in fields["entries"]]
        values = [Value(one, arrays[one.key], arrays[one.ids_key] if one.has_ids else None) for one in entries]
        batch = [arrays[f"batch:{number}"] for number in range(fields["batch_tensors"])]
    except Exception as error:
        raise DumpError(f"{path} is broken: {error!r}.") from None
    return SavedStep(
        path,
        worker=fields["worker"],
        step=fields["step"],
        layer=fields["layer"],
        kind=fields["kind"],
        row_ids=fields["row_ids"],
        layers=fields["layers"],
        batch=fields["batch"],
        batch_arrays=batch,
        values=values,
        bad=[(layer, kind, name) for layer, kind, name in fields["not_finite"]],
    )


_LOCK = threading.Lock()
_SAVED: dict[tuple[str, int], tuple[int, str, str]] = {}
"""The step, its first layer, and where it is, for each callback and worker; `_LOCK` guards it."""


@functools.lru_cache(maxsize=64)
def _decode_setup(setup: bytes) -> tuple[NanSettings, list[Entry]]:
    settings, entries = json.loads(setup)
    return NanSettings(**settings), [Entry(*entry) for entry in entries]


def _save_step(setup: bytes, step: Any, worker: Any, *arrays: Any) -> list[Array]:
    """Saves a step, if it is the first one of its worker; returns where it is, for a message. The step waits for it."""
    settings, entries = _decode_setup(setup)
    key, saved = (settings.key, int(worker)), ""
    with _LOCK:
        if key not in _SAVED:
            batch = [_plain(one) for one in arrays[: settings.batch_tensors]]
            values = make_values(entries, [np.asarray(one) for one in arrays[settings.batch_tensors :]])
            layer, saved = _try_write(settings, int(step), int(worker), batch, values)
            _SAVED[key] = int(step), layer, saved
    return [np.array(saved.encode(), dtype=object)]


def _try_write(
    settings: NanSettings, step: int, worker: int, batch: Sequence[Array], values: Sequence[Value]
) -> tuple[str, str]:
    """Writes the files of a step; returns its first layer that is not finite, and a message that says where it is."""
    bad = [value for value in values if is_bad(value.values)]
    layer = bad[0].entry.layer if bad else ""
    try:
        path = _write(settings, step, worker, batch, values, bad)
    except TfpsError as error:
        # The training is to end with the error of the NaN, or to go on.
        return layer, f"the step is not saved, {error}".rstrip(".").replace("]", ")")
    return layer, f"the step is saved in {path}, and `tfps-dump replay` runs it again"


def _plain(array: Any) -> Array:
    """Returns an array that numpy can save without pickling: strings come as objects."""
    plain = np.asarray(array)
    return plain.astype("S") if plain.dtype.kind == "O" else plain


def _write(
    settings: NanSettings,
    step: int,
    worker: int,
    batch: Sequence[Array],
    values: Sequence[Value],
    bad: Sequence[Value],
) -> str:
    """Writes the files, the index last; returns the path of the arrays."""
    first = bad[0].entry if bad else Entry("", PARAMETER, "")
    kept = [value for value in values if value.entry.kind != ACTIVATION]
    fields = {
        "worker": worker,
        "step": step,
        "layer": first.layer,
        "kind": first.kind,
        "row_ids": bad_rows(bad),
        "layers": settings.layers,
        "batch": settings.batch,
        "batch_tensors": len(batch),
        "not_finite": [(one.entry.layer, one.entry.kind, one.entry.name) for one in bad],
        "entries": [dataclasses.astuple(one.entry) for one in kept],
    }
    arrays = {f"batch:{number}": array for number, array in enumerate(batch)}
    for value in kept:
        arrays[value.entry.key] = value.values
        if value.ids is not None:
            arrays[value.entry.ids_key] = value.ids
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    folder, path = open_folder(settings.url), f"worker-{worker:05d}/{_NAME}"
    if not folder.exists(HEADER):
        folder.write(HEADER, settings.header.encode())
    folder.write(f"{path}.npz", buffer.getvalue())
    folder.write(f"{path}.json", json.dumps(fields, indent=1).encode())
    return f"{folder.path}/{path}.npz"


def bad_rows(values: Sequence[Value]) -> dict[str, list[int]]:
    """Returns for each layer the ids of its rows, or of gradients of its rows, that are not finite."""
    found: dict[str, set[int]] = {}
    for value in values:
        if value.ids is not None and is_bad(value.values):
            rows = value.values.reshape(len(value.ids), -1)
            found.setdefault(value.entry.layer, set()).update(value.ids[~np.isfinite(rows).all(axis=1)].tolist())
    return {layer: sorted(ids) for layer, ids in found.items()}


def is_bad(values: Array) -> bool:
    """Whether an element is NaN or infinite."""
    return values.dtype.kind == "f" and not bool(np.isfinite(values).all())


def _saved(key: bytes) -> list[Array]:
    """Returns the (worker, step, layer, where it is) of the steps that this process has saved, as JSON."""
    with _LOCK:
        found = [(worker, *what) for (one, worker), what in _SAVED.items() if one == key.decode()]
    return [np.array(json.dumps(found).encode(), dtype=object)]


WORKER_FUNCTIONS = {"save_step": _save_step, "saved": _saved}
