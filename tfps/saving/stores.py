"""Checkpoints in object stores and other file systems that fsspec reaches: `s3://`, `gs://`, `hdfs://`, `memory://`.

An object store has no rename, so the manifest is written last: a checkpoint without one is not there. The chief moves
the files, one bundle at a time through a temporary folder, so it needs room for one part on its disk. Two programs that
write into one folder are found by `latest`, which each of them reads before it writes.

Threading: several threads may upload and download at once; fsspec file systems allow that.
"""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from tfps.errors import CheckpointError
from tfps.files import open_url
from tfps.saving import manifest as manifests
from tfps.saving.folders import LATEST, by_step, check_size, looks_incomplete, numbered_first
from tfps.saving.manifest import Manifest, files_of


class StoreFolder:
    """A folder in an fsspec file system. See `Folder`.

    Args:
        url: its URL.

    Raises:
        ConfigError: fsspec, or what it needs for such a URL, is not installed.
    """

    def __init__(self, url: str) -> None:
        self.path = url.rstrip("/")
        self._files, self._path = open_url(self.path, "path", "storage")

    def names(self) -> list[str]:
        """See `Folder`."""
        return by_step(self._children(complete=True))

    def complete(self) -> list[str]:
        """See `Folder`."""
        return numbered_first(self._children(complete=True))

    def incomplete(self) -> list[str]:
        """See `Folder`."""
        return numbered_first([name for name in self._children(complete=False) if looks_incomplete(name)])

    def _children(self, *, complete: bool) -> list[str]:
        """Returns what is in this folder and has a manifest, or what has none."""
        with _named(self.path), contextlib.suppress(FileNotFoundError):
            self._files.invalidate_cache()
            found = [str(one).rstrip("/").rpartition("/")[2] for one in self._files.ls(self._path, detail=False)]
            return [name for name in found if complete == self._files.exists(f"{self._path}/{name}/{manifests.NAME}")]
        return []

    def latest(self) -> str | None:
        """See `Folder`."""
        try:
            return self._files.cat_file(f"{self._path}/{LATEST}").decode("utf-8", "replace").strip() or None
        except FileNotFoundError:
            return None

    def set_latest(self, name: str) -> None:
        """See `Folder`."""
        with _named(self.path):
            self._files.pipe_file(f"{self._path}/{LATEST}", f"{name}\n".encode())

    def begin(self, name: str) -> "StoreDraft":
        """See `Folder`."""
        return StoreDraft(self._files, f"{self._path}/{name}", f"{self.path}/{name}")

    def open(self, name: str) -> "StoreStored":
        """See `Folder`."""
        return StoreStored(self._files, f"{self._path}/{name}", f"{self.path}/{name}")

    def remove(self, name: str) -> None:
        """See `Folder`."""
        with contextlib.suppress(FileNotFoundError):
            # Incomplete first, so that a reader never finds half of it.
            self._files.rm_file(f"{self._path}/{name}/{manifests.NAME}")
        with contextlib.suppress(FileNotFoundError):
            self._files.rm(f"{self._path}/{name}", recursive=True)

    def child(self, name: str) -> "StoreFolder":
        """See `Folder`."""
        return StoreFolder(f"{self.path}/{name}")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Does nothing: object stores have no locks."""
        yield


class StoreDraft:
    """A checkpoint that is being written. See `Draft`.

    Args:
        files: the fsspec file system.
        target: the path of the checkpoint in it.
        path: its URL.
    """

    is_shared = False

    def __init__(self, files: Any, target: str, path: str) -> None:
        self.path = path
        self._files, self._target = files, target
        with _named(path):
            if files.exists(f"{target}/{manifests.NAME}"):
                raise CheckpointError(
                    f"`path` must be new, because nothing is overwritten. Received: {path}, which exists. "
                    "Valid: another path; or remove it first."
                )
            # What a writer that died has left.
            if files.exists(target):
                files.rm(target, recursive=True)
            files.makedirs(target, exist_ok=True)
        self._staged = pathlib.Path(tempfile.mkdtemp(prefix="tfps-checkpoint-"))

    def prefix(self, bundle: str) -> str:
        """See `Draft`."""
        path = self._staged / bundle
        path.parent.mkdir(exist_ok=True)
        return str(path)

    def commit(self, bundle: str) -> dict[str, int]:
        """See `Draft`."""
        sizes = {}
        for name in files_of(bundle):
            file = self._staged / name
            sizes[name] = file.stat().st_size
            with _named(self.path):
                self._files.makedirs(f"{self._target}/{name}".rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(file), f"{self._target}/{name}")
            # The chief's disk has room for one part alone.
            file.unlink()
        return sizes

    def finish(self, manifest: Manifest) -> None:
        """See `Draft`."""
        # From here on it is there.
        with _named(self.path):
            self._files.pipe_file(f"{self._target}/{manifests.NAME}", manifest.to_json().encode())
        shutil.rmtree(self._staged, ignore_errors=True)

    def discard(self) -> None:
        """See `Draft`."""
        shutil.rmtree(self._staged, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._files.rm(self._target, recursive=True)


class StoreStored:
    """A complete checkpoint. See `Stored`.

    Args:
        files: the fsspec file system.
        target: the path of the checkpoint in it.
        path: its URL.
    """

    def __init__(self, files: Any, target: str, path: str) -> None:
        self.path = path
        self._files, self._target = files, target
        try:
            text = files.cat_file(f"{target}/{manifests.NAME}")
        except FileNotFoundError:
            raise CheckpointError(f"there is no complete checkpoint {path}.") from None
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error}.") from None
        self.manifest = manifests.parse(text, f"{path}/{manifests.NAME}")
        self._fetched = tempfile.TemporaryDirectory(prefix="tfps-checkpoint-")

    def probe(self) -> None:
        """See `Stored`."""

    def fetch(self, bundle: str) -> str:
        """See `Stored`."""
        # Several servers read a part, each for itself.
        folder = pathlib.Path(tempfile.mkdtemp(dir=self._fetched.name))
        path = folder / bundle
        path.parent.mkdir(exist_ok=True)
        for name in files_of(bundle):
            try:
                self._files.get_file(f"{self._target}/{name}", str(folder / name))
            except FileNotFoundError:
                raise CheckpointError(f"{self.path}/{name} is missing.") from None
            except OSError as error:
                raise CheckpointError(f"cannot read {self.path}/{name}: {error}.") from None
        return str(path)

    def release(self, prefix: str) -> None:
        """See `Stored`."""
        for path in files_of(prefix):
            pathlib.Path(path).unlink(missing_ok=True)

    def check_sizes(self) -> None:
        """See `Stored`."""
        for name, file in self.manifest.files.items():
            try:
                size = int(self._files.size(f"{self._target}/{name}"))
            except FileNotFoundError:
                raise CheckpointError(f"{self.path}/{name} is missing.") from None
            check_size(f"{self.path}/{name}", size, file.bytes)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Raises errors of the store as ours, with the URL of the checkpoint."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot write the checkpoint {path}: {error}.") from None
