"""Looks at checkpoints without a model or a cluster: which there are, what they hold, and whether they are whole.

Threading: the thread that asks. Cost: `find` reads manifests and asks for the sizes of files; `verify` reads every
byte, one tensor bundle at a time.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np

from tfps.errors import CheckpointError
from tfps.saving.interface import Folder, Stored
from tfps.saving.locations import locate, open_folder
from tfps.saving.manifest import Manifest, SavedTable, bundle_of, files_of

State: TypeAlias = Literal["complete", "incomplete", "broken"]


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint in a folder.

    Args:
        name: its name in the folder.
        path: its path or URL.
        state: "incomplete" if its writer has not finished, or died; "broken" if it cannot be read.
        problem: what is wrong; empty if nothing is.
        is_latest: whether the folder names it as its latest.
        stored: the checkpoint, if it is complete.
    """

    name: str
    path: str
    state: State
    problem: str
    is_latest: bool
    stored: Stored | None

    @property
    def step(self) -> int | None:
        """The number of training steps before it; None if it cannot be read."""
        return None if self.stored is None else self.stored.manifest.step


def find(path: str | os.PathLike[str]) -> list[Found]:
    """Finds the checkpoints at a path, the oldest first.

    Args:
        path: the path or URL of a checkpoint, or of a folder of checkpoints.

    Raises:
        CheckpointError: there is none, not even an incomplete one.
        ConfigError: nothing here can read such a URL.
    """
    run = open_folder(path)
    complete, incomplete, latest = run.complete(), run.incomplete(), run.latest()
    if not complete and not incomplete:
        with contextlib.suppress(CheckpointError):
            folder, name = locate(path)
            if name in folder.complete():
                return [_look_at(folder, name, True, latest=None)]
            if name in folder.incomplete():
                return [_look_at(folder, name, False, latest=None)]
    if not complete and not incomplete:
        raise CheckpointError(f"{run.path} is no checkpoint, and no folder of checkpoints.")
    return [_look_at(run, one, True, latest) for one in complete] + [
        _look_at(run, one, False, latest) for one in incomplete
    ]


def _look_at(folder: Folder, name: str, complete: bool, latest: str | None) -> Found:
    path = f"{folder.path}/{name}"
    if not complete:
        return Found(name, path, "incomplete", "its writer has not finished, or died", False, None)
    try:
        stored = folder.open(name)
        stored.check_sizes()
        if (base := stored.manifest.base) is not None and base not in folder.complete():
            raise CheckpointError(f"{path} is a delta of {base}, which is missing.")
    except CheckpointError as error:
        return Found(name, path, "broken", str(error), name == latest, None)
    return Found(name, path, "complete", "", name == latest, stored)


def verify(stored: Stored) -> int:
    """Reads every file of a checkpoint and compares its size and fingerprint with the manifest.

    Memory: one tensor bundle, which is a part of 64 MB, or a larger dense variable.

    Args:
        stored: the checkpoint.

    Returns:
        The number of files.

    Raises:
        CheckpointError: a file is missing or has another content.
    """
    # Imported late, because it imports TensorFlow.
    from tfps.cluster import devices
    from tfps.saving import bundles

    stored.check_sizes()
    files = stored.manifest.files
    for bundle in sorted({bundle_of(name) for name in files}):
        names = files_of(bundle)
        if not set(names) <= files.keys():
            raise CheckpointError(f"{stored.path} is broken: its manifest lists a part of the files of {bundle!r}.")
        prefix = stored.fetch(bundle)
        try:
            bundles.check(devices.CHIEF, prefix, [files[name] for name in names])
        finally:
            stored.release(prefix)
    return len(files)


def table_bytes(manifest: Manifest, table: SavedTable) -> int:
    """Returns the bytes of the rows of a table and its slots."""
    return sum(part.rows for part in table.parts) * sum(
        manifest.variable(name).shape[1] * itemsize(manifest.variable(name).dtype) for name in table.columns
    )


def itemsize(dtype: str) -> int:
    """Returns the bytes of an element; of a string, whose length varies, none."""
    return {"bfloat16": 2, "string": 0}.get(dtype) or (0 if dtype == "string" else np.dtype(dtype).itemsize)


def slot_name(table: SavedTable, column: str) -> str:
    """Returns the short name of a column: "momentum" for "adam/items_embeddings_momentum", unless two have it."""
    # What a table has beside its slots is named after it: "use" for "model/items/embeddings/use".
    if column.startswith(f"{table.columns[0]}/"):
        return column.removeprefix(f"{table.columns[0]}/")
    short = column.rpartition("_")[2]
    alike = [name for name in table.columns[1:] if name.rpartition("_")[2] == short]
    return short if len(alike) == 1 and short != "id" and short != "embedding" else column


def table_named(manifest: Manifest, name: str) -> Iterator[SavedTable]:
    """Yields the tables that a user means by a name: that of a table, or of its layer."""
    yield from (table for table in manifest.tables if table.columns[0] == name or name in table.columns[0].split("/"))
