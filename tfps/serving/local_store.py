"""Exports in a file system: a version has another name (`delta-1260.partial`) until all of it is on the disk."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from tfps.errors import ExportError
from tfps.files import PARTIAL, replace_durably, sync, take_lock, write_durably
from tfps.serving.store_errors import named

_LOCK = "writer.lock"


class LocalStore:
    """A folder of a file system. See `Store`.

    Args:
        path: its path; relative paths are of the current folder.
    """

    def __init__(self, path: str) -> None:
        self._path = pathlib.Path(path).expanduser().absolute()
        self.path = str(self._path)

    def names(self) -> list[str]:
        """See `Store`."""
        with named(self.path, "read"), contextlib.suppress(FileNotFoundError):
            return [one.name for one in self._path.iterdir() if one.is_dir()]
        return []

    def read(self, name: str) -> bytes:
        """See `Store`."""
        with named(f"{self.path}/{name}", "read"):
            return (self._path / name).read_bytes()

    def begin(self, name: str) -> "LocalDraft":
        """See `Store`."""
        return LocalDraft(self._path / name)

    def replace(self, name: str, data: bytes) -> None:
        """See `Store`."""
        with named(f"{self.path}/{name}", "write"):
            self._path.mkdir(parents=True, exist_ok=True)
            replace_durably(self._path / name, data)

    def remove(self, name: str) -> None:
        """See `Store`."""
        # What cannot be removed now, such as an open file on NFS, is removed with the next version.
        shutil.rmtree(self._path / name, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """See `Store`."""
        with named(self.path, "write"):
            self._path.mkdir(parents=True, exist_ok=True)
            # The lock ends with the process, so a program that was killed keeps nobody out.
            descriptor = os.open(self._path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if not take_lock(descriptor):
                raise ExportError(f"another program exports to {self.path}. Valid: another path for one of them.")
            yield
        finally:
            os.close(descriptor)


class LocalDraft:
    """A version that is being written into a file system. See `Draft`.

    Args:
        target: the path of the complete version.
    """

    def __init__(self, target: pathlib.Path) -> None:
        self._target, self._partial = target, target.with_name(target.name + PARTIAL)
        self._folders = {self._partial}
        with named(str(target), "write"):
            for left in (self._partial, self._target):
                if left.exists():
                    shutil.rmtree(left)
            self._partial.mkdir(parents=True)

    def write(self, file: str, data: bytes) -> None:
        """See `Draft`."""
        path = self._partial / file
        with named(f"{self._target}/{file}", "write"):
            path.parent.mkdir(exist_ok=True)
            self._folders.add(path.parent)
            write_durably(path, data)

    def finish(self) -> None:
        """See `Draft`."""
        with named(str(self._target), "write"):
            # Before the rename: after a power cut the new name must not be there without the files.
            for folder in self._folders:
                sync(folder)
            os.rename(self._partial, self._target)
            sync(self._target.parent)

    def discard(self) -> None:
        """See `Draft`."""
        shutil.rmtree(self._partial, ignore_errors=True)
