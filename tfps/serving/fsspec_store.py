"""Exports in what fsspec reaches: `s3://`, `gs://`, `memory://`. There `current.json` makes a version visible."""

import contextlib
from collections.abc import Iterator
from typing import Any

from tfps.errors import ExportError
from tfps.files import open_url
from tfps.serving.store_errors import named


class FsspecStore:
    """A folder of a file system that fsspec reaches. See `Store`.

    Args:
        url: its URL.

    Raises:
        ConfigError: fsspec, or what it needs for such a URL, is not installed.
    """

    def __init__(self, url: str) -> None:
        self.path = url.rstrip("/")
        self._files, self._path = open_url(self.path, "url", "serving")

    def names(self) -> list[str]:
        """See `Store`."""
        with named(self.path, "read", Exception), contextlib.suppress(FileNotFoundError):
            # Listings are remembered by fsspec, and another process writes.
            self._files.invalidate_cache()
            found = self._files.ls(self._path, detail=True)
            return [str(one["name"]).rstrip("/").rpartition("/")[2] for one in found if one["type"] == "directory"]
        return []

    def read(self, name: str) -> bytes:
        """See `Store`."""
        with named(f"{self.path}/{name}", "read", Exception):
            return bytes(self._files.cat_file(f"{self._path}/{name}"))

    def begin(self, name: str) -> "FsspecDraft":
        """See `Store`."""
        return FsspecDraft(self._files, f"{self._path}/{name}", f"{self.path}/{name}")

    def replace(self, name: str, data: bytes) -> None:
        """See `Store`."""
        with named(f"{self.path}/{name}", "write", Exception):
            self._files.makedirs(self._path, exist_ok=True)
            # Object stores put a file as a whole: a reader sees the old one or the new one.
            self._files.pipe_file(f"{self._path}/{name}", data)

    def remove(self, name: str) -> None:
        """See `Store`. What cannot be removed now is removed with the next version."""
        with contextlib.suppress(FileNotFoundError, ExportError), named(f"{self.path}/{name}", "remove", Exception):
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
        with named(path, "write", Exception):
            # What a writer that died has left.
            if files.exists(target):
                files.rm(target, recursive=True)

    def write(self, file: str, data: bytes) -> None:
        """See `Draft`."""
        with named(f"{self._path}/{file}", "write", Exception):
            self._files.makedirs(f"{self._target}/{file}".rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(f"{self._target}/{file}", data)

    def finish(self) -> None:
        """Does nothing: nobody reads a version that `current.json` does not list."""

    def discard(self) -> None:
        """See `Draft`."""
        with contextlib.suppress(FileNotFoundError, ExportError), named(self._path, "remove", Exception):
            self._files.rm(self._target, recursive=True)
