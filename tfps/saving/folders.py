"""Where checkpoints are: folders of this machine, or of a file system that all tasks share.

A checkpoint is complete or not there: it is written under another name (`ckpt-1200.partial`), brought to the disk, and
renamed. `latest` names the last complete one; it too is replaced by a rename. Two programs that write into one folder
would mix their files, so a writer holds a lock (`flock`), which ends with its process.

Threading: the thread that saves or restores; `Draft.prefix` and `Stored` may be used by any.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from tfps.errors import CheckpointError
from tfps.files import PARTIAL, replace_durably, sync, take_lock
from tfps.saving import manifest as manifests
from tfps.saving.manifest import Manifest, files_of

LATEST = "latest"
_LOCK = "writer.lock"
_NUMBERED = re.compile(r"ckpt-(\d+)")


def name_of(step: int) -> str:
    """Returns the name of the checkpoint of a step in the folder of a run."""
    return f"ckpt-{step}"


def by_step(names: list[str]) -> list[str]:
    """Returns the names of checkpoints of a run, the oldest first."""
    numbered = ((int(match[1]), name) for name in names if (match := _NUMBERED.fullmatch(name)))
    return [name for _, name in sorted(numbered)]


def numbered_first(names: list[str]) -> list[str]:
    """Returns names with those of numbered checkpoints first, the oldest first, and the others by name."""
    numbered = by_step(names)
    return numbered + sorted(set(names) - set(numbered))


def looks_incomplete(name: str) -> bool:
    """Whether a folder of this name that has no manifest is a checkpoint that was not completed."""
    return name.endswith(PARTIAL) or _NUMBERED.fullmatch(name) is not None


class LocalFolder:
    """A folder that the chief reaches by its file system.

    Args:
        path: its path; relative paths are of the current folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # Servers may have another current folder.
        self._path = pathlib.Path(path).expanduser().absolute()
        self.path = str(self._path)

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
        """Returns the folders in this one that have a manifest, or those that have none."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            folders = [one for one in self._path.iterdir() if one.is_dir()]
            # What a writer that is at work has under another name is not complete, whatever is in it.
            return [
                one.name
                for one in folders
                if complete == ((one / manifests.NAME).exists() and not one.name.endswith(PARTIAL))
            ]
        return []

    def latest(self) -> str | None:
        """See `Folder`."""
        try:
            text = (self._path / LATEST).read_text("utf-8", errors="replace").strip()
        except OSError:
            return None
        return text or None

    def set_latest(self, name: str) -> None:
        """See `Folder`."""
        with _named(self._path):
            replace_durably(self._path / LATEST, f"{name}\n".encode())

    def begin(self, name: str) -> "LocalDraft":
        """See `Folder`."""
        return LocalDraft(self._path / name)

    def open(self, name: str) -> "LocalStored":
        """See `Folder`."""
        return LocalStored(self._path / name)

    def remove(self, name: str) -> None:
        """See `Folder`."""
        target = self._path / name
        # Incomplete first, so that a reader never finds half of it.
        (target / manifests.NAME).unlink(missing_ok=True)
        shutil.rmtree(target, ignore_errors=True)

    def child(self, name: str) -> "LocalFolder":
        """See `Folder`."""
        return LocalFolder(self._path / name)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """See `Folder`."""
        with _named(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(descriptor, self._path)
            yield
        finally:
            os.close(descriptor)


class LocalDraft:
    """A checkpoint that is being written into a folder. See `Draft`.

    Args:
        target: the path of the complete checkpoint.
    """

    is_shared = True

    def __init__(self, target: pathlib.Path) -> None:
        # The name that it will have.
        self.path = str(target)
        self._target, self._partial = target, target.with_name(target.name + PARTIAL)
        if target.exists():
            raise CheckpointError(
                f"`path` must be new, because nothing is overwritten. Received: {target}, which exists. "
                "Valid: another path; or remove it first."
            )
        with _named(target):
            self._partial.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._partial, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _lock(self._descriptor, target)
            # Only a writer that died has left anything here, because this one has the lock.
            with _named(target):
                for one in self._partial.iterdir():
                    shutil.rmtree(one) if one.is_dir() else one.unlink()
        except BaseException:
            os.close(self._descriptor)
            raise
        # The disk is busy while the servers compute the next part.
        self._disk = concurrent.futures.ThreadPoolExecutor(1, "tfps-sync")
        self._syncing: list[concurrent.futures.Future[None]] = []

    def prefix(self, bundle: str) -> str:
        """See `Draft`."""
        path = self._partial / bundle
        with _named(self._target):
            path.parent.mkdir(exist_ok=True)
        return str(path)

    def commit(self, bundle: str) -> dict[str, int]:
        """See `Draft`."""
        files = [self._partial / name for name in files_of(bundle)]
        self._syncing += [self._disk.submit(sync, file) for file in files]
        with _named(self._target):
            return {name: file.stat().st_size for name, file in zip(files_of(bundle), files, strict=True)}

    def finish(self, manifest: Manifest) -> None:
        """See `Draft`."""
        with _named(self._target):
            replace_durably(self._partial / manifests.NAME, manifest.to_json().encode())
            # Before the rename: after a power cut the new name must not be there without the bytes.
            for one in self._syncing:
                one.result()
            for folder in {(self._partial / name).parent for name in manifest.files} | {self._partial}:
                sync(folder)
            # A rename replaces an empty folder alone, so it cannot overwrite a checkpoint.
            os.rename(self._partial, self._target)
            sync(self._target.parent)
        self._disk.shutdown()
        os.close(self._descriptor)

    def discard(self) -> None:
        """See `Draft`."""
        # Files that are about to be removed need not reach the disk.
        self._disk.shutdown(cancel_futures=True)
        shutil.rmtree(self._partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


class LocalStored:
    """A complete checkpoint in a folder. See `Stored`.

    Args:
        path: its path.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self.path = str(path)
        file = path / manifests.NAME
        try:
            text = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise CheckpointError(_missing(path)) from None
        except OSError as error:
            raise CheckpointError(f"cannot read {file}: {error.strerror}.") from None
        self.manifest = manifests.parse(text, str(file))
        self._probe = str(file), text.decode()

    def probe(self) -> tuple[str, str]:
        """See `Stored`."""
        return self._probe

    def fetch(self, bundle: str) -> str:
        """See `Stored`."""
        return str(self._path / bundle)

    def release(self, prefix: str) -> None:
        """See `Stored`."""

    def check_sizes(self) -> None:
        """See `Stored`."""
        for name, file in self.manifest.files.items():
            try:
                size = (self._path / name).stat().st_size
            except OSError as error:
                raise CheckpointError(f"{self._path / name} is missing ({error.strerror}).") from None
            check_size(str(self._path / name), size, file.bytes)


def check_size(path: str, size: int, wanted: int) -> None:
    """Checks the length of a file.

    Raises:
        CheckpointError: it has another length than when it was written.
    """
    if size != wanted:
        kind = "truncated" if size < wanted else "of another checkpoint"
        raise CheckpointError(f"{path} is {kind}: it has {size:,} bytes, and {wanted:,} were written.")


def _missing(path: pathlib.Path) -> str:
    if path.with_name(path.name + PARTIAL).exists():
        return f"{path} is incomplete: its writer has not finished, or died."
    if path.exists():
        return f"{path} is no checkpoint of tfps, or an incomplete one: it has no {manifests.NAME}."
    return f"there is no checkpoint {path}."


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    """Raises errors of the file system as ours, with the path of the checkpoint."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot write the checkpoint {path}: {error.strerror or error}.") from None


def _lock(descriptor: int, path: pathlib.Path) -> None:
    if not take_lock(descriptor):
        raise CheckpointError(f"another program writes checkpoints to {path}. Valid: another path.")
