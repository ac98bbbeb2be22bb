"""Where exports are: folders of a file system, or of whatever fsspec reaches (`s3://`, `gs://`, `memory://`).

A version is there completely or not at all. A file system has it under another name (`delta-1260.partial`) until all of
it is on the disk. An object store has no rename: there `current.json`, which is written last, makes a version visible.

Threading: a store may be used by several threads; a draft by one.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, Protocol

from tfps.checks import check_type
from tfps.errors import ConfigError, ExportError

_PARTIAL = ".partial"
_LOCK = "writer.lock"


class Draft(Protocol):
    """A version that is being written."""

    def write(self, file: str, data: bytes) -> None:
        """Writes a file of the version."""
        ...

    def finish(self) -> None:
        """Completes the version."""
        ...

    def discard(self) -> None:
        """Removes what was written."""
        ...


class Store(Protocol):
    """A folder with exports.

    Attributes:
        path: its path or URL.
    """

    path: str

    def names(self) -> list[str]:
        """Returns the names of the folders in it, also of those that are incomplete."""
        ...

    def read(self, name: str) -> bytes:
        """Returns the content of a file.

        Raises:
            FileNotFoundError: there is none.
            ExportError: it cannot be read.
        """
        ...

    def begin(self, name: str) -> Draft:
        """Begins a version. What a writer that died has left under this name is removed."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Replaces a small file. A reader finds the old content or the new one."""
        ...

    def remove(self, name: str) -> None:
        """Removes a version; nothing happens if it is not there."""
        ...

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Keeps other programs from writing.

        Raises:
            ExportError: another program writes.
        """
        ...


def open_store(url: str | os.PathLike[str]) -> Store:
    """Returns the store at a path or URL.

    Raises:
        ConfigError: it is neither, or fsspec cannot open such a URL.
    """
    check_type("url", url, (str, os.PathLike), "a path or a URL")
    text = os.fspath(url)
    if not text:
        raise ConfigError(f"`url` must be a path or a URL. Received: {url!r}.")
    if "://" in text and not text.startswith("file://"):
        return FsspecStore(text)
    return LocalStore(text.removeprefix("file://"))


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
        with _named(self.path, "read"), contextlib.suppress(FileNotFoundError):
            return [one.name for one in self._path.iterdir() if one.is_dir()]
        return []

    def read(self, name: str) -> bytes:
        """See `Store`."""
        with _named(f"{self.path}/{name}", "read"):
            return (self._path / name).read_bytes()

    def begin(self, name: str) -> "LocalDraft":
        """See `Store`."""
        return LocalDraft(self._path / name)

    def replace(self, name: str, data: bytes) -> None:
        """See `Store`."""
        temporary = self._path / f"{name}{_PARTIAL}"
        with _named(f"{self.path}/{name}", "write"):
            self._path.mkdir(parents=True, exist_ok=True)
            _write_durably(temporary, data)
            os.replace(temporary, self._path / name)
            _sync(self._path)

    def remove(self, name: str) -> None:
        """See `Store`."""
        shutil.rmtree(self._path / name, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """See `Store`."""
        with _named(self.path, "write"):
            self._path.mkdir(parents=True, exist_ok=True)
            # The lock ends with the process, so a program that was killed keeps nobody out.
            descriptor = os.open(self._path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(descriptor, self.path)
            yield
        finally:
            os.close(descriptor)


class LocalDraft:
    """A version that is being written into a file system. See `Draft`.

    Args:
        target: the path of the complete version.
    """

    def __init__(self, target: pathlib.Path) -> None:
        self._target, self._partial = target, target.with_name(target.name + _PARTIAL)
        self._folders = {self._partial}
        with _named(str(target), "write"):
            for left in (self._partial, self._target):
                if left.exists():
                    shutil.rmtree(left)
            self._partial.mkdir(parents=True)

    def write(self, file: str, data: bytes) -> None:
        """See `Draft`."""
        path = self._partial / file
        with _named(f"{self._target}/{file}", "write"):
            path.parent.mkdir(exist_ok=True)
            self._folders.add(path.parent)
            _write_durably(path, data)

    def finish(self) -> None:
        """See `Draft`."""
        with _named(str(self._target), "write"):
            # Before the rename: after a power cut the new name must not be there without the files.
            for folder in self._folders:
                _sync(folder)
            os.rename(self._partial, self._target)
            _sync(self._target.parent)

    def discard(self) -> None:
        """See `Draft`."""
        shutil.rmtree(self._partial, ignore_errors=True)


class FsspecStore:
    """A folder of a file system that fsspec reaches. See `Store`.

    Args:
        url: its URL.

    Raises:
        ConfigError: fsspec, or what it needs for such a URL, is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise ConfigError(
                f"`url` is a URL, which needs fsspec. Received: {url!r}. Valid: a path; or pip install tfps[serving]."
            ) from None
        self.path = url.rstrip("/")
        try:
            self._files, self._path = fsspec.core.url_to_fs(self.path)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"`url` must be a URL that fsspec can open. Received: {url!r} ({error}).") from None

    def names(self) -> list[str]:
        """See `Store`."""
        with _named(self.path, "read", Exception), contextlib.suppress(FileNotFoundError):
            self._files.invalidate_cache()
            found = self._files.ls(self._path, detail=True)
            return [str(one["name"]).rstrip("/").rpartition("/")[2] for one in found if one["type"] == "directory"]
        return []

    def read(self, name: str) -> bytes:
        """See `Store`."""
        with _named(f"{self.path}/{name}", "read", Exception):
            return bytes(self._files.cat_file(f"{self._path}/{name}"))

    def begin(self, name: str) -> "FsspecDraft":
        """See `Store`."""
        return FsspecDraft(self._files, f"{self._path}/{name}", f"{self.path}/{name}")

    def replace(self, name: str, data: bytes) -> None:
        """See `Store`."""
        with _named(f"{self.path}/{name}", "write", Exception):
            self._files.makedirs(self._path, exist_ok=True)
            self._files.pipe_file(f"{self._path}/{name}", data)

    def remove(self, name: str) -> None:
        """See `Store`. What cannot be removed now is removed with the next version."""
        with contextlib.suppress(FileNotFoundError, ExportError), _named(f"{self.path}/{name}", "remove", Exception):
            self._files.rm(f"{self._path}/{name}", recursive=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Does nothing: object stores have no locks. The writer looks at `current.json` instead."""
        yield


class FsspecDraft:
    """A version that is being written by fsspec. See `Draft`.

    Args:
        files: the fsspec file system.
        target: the path of the version in it.
        path: its URL.
    """

    def __init__(self, files: Any, target: str, path: str) -> None:
        self._files, self._target, self._path = files, target, path
        with _named(path, "write", Exception):
            if files.exists(target):
                files.rm(target, recursive=True)

    def write(self, file: str, data: bytes) -> None:
        """See `Draft`."""
        with _named(f"{self._path}/{file}", "write", Exception):
            self._files.makedirs(f"{self._target}/{file}".rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(f"{self._target}/{file}", data)

    def finish(self) -> None:
        """Does nothing: nobody reads a version that `current.json` does not list."""

    def discard(self) -> None:
        """See `Draft`."""
        with contextlib.suppress(FileNotFoundError, ExportError), _named(self._path, "remove", Exception):
            self._files.rm(self._target, recursive=True)


def _lock(descriptor: int, path: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ExportError(f"another program exports to {path}. Valid: another path for one of them.") from None
    except OSError:
        # Some network file systems have no locks; the look at `current.json` remains.
        pass


def _write_durably(path: pathlib.Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _named(path: str, verb: str, kind: type[Exception] = OSError) -> Iterator[None]:
    """Raises errors of a file system as ours, with the path. A missing file stays `FileNotFoundError`.

    Args:
        path: the path or URL, for messages.
        verb: what is done to it.
        kind: the errors. The libraries behind fsspec have errors of their own, which may be any.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except kind as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ExportError(f"cannot {verb} {path}: {why}.") from error
