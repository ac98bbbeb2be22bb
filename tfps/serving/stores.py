"""Where exports are: folders of a file system, or of whatever fsspec reaches (`s3://`, `gs://`, `memory://`).

A version is there completely or not at all. A file system has it under another name (`delta-1260.partial`) until all of
it is on the disk. An object store has no rename: there `current.json`, which is written last, makes a version visible.

Threading: a store may be used by several threads; a draft by one.
"""

import contextlib
import os
from typing import Protocol

from tfps.checks import check_type
from tfps.errors import ConfigError
from tfps.serving.fsspec_store import FsspecStore
from tfps.serving.local_store import LocalStore


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
    # A path of bytes too has `__fspath__`.
    if not text or not isinstance(text, str):
        raise ConfigError(f"`url` must be a path or a URL. Received: {url!r}.")
    # Local files do not go by fsspec: only a file system can rename, lock and sync.
    if "://" in text and not text.startswith("file://"):
        return FsspecStore(text)
    return LocalStore(text.removeprefix("file://"))
