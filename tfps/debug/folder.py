"""`DumpFolder`: the folder of a dump, in a file system or by fsspec. A file is there whole, or not at all.

Threading: any, if no two write one file.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

from tfps.checks import check_type
from tfps.errors import ConfigError, DumpError
from tfps.files import PARTIAL, open_url


class DumpFolder(Protocol):
    """A folder with a dump.

    Attributes:
        path: its path or URL.
        is_of_process: whether no other process sees its files.
    """

    path: str
    is_of_process: bool

    def write(self, name: str, data: bytes) -> None:
        """Writes or replaces a file.

        Raises:
            DumpError: it cannot be written.
        """
        ...

    def read(self, name: str) -> bytes:
        """Returns the content of a file.

        Raises:
            DumpError: it is not there, or cannot be read.
        """
        ...

    def exists(self, name: str) -> bool:
        """Whether a file is there."""
        ...

    def names(self, folder: str = "") -> list[str]:
        """Returns the names of what is in a folder; none if it is not there."""
        ...


def open_folder(url: str | os.PathLike[str]) -> DumpFolder:
    """Returns the folder at a path or URL.

    Raises:
        ConfigError: it is neither, or fsspec cannot open such a URL.
    """
    check_type("url", url, (str, os.PathLike), "a path or a URL")
    text = os.fspath(url)
    if not text:
        raise ConfigError(f"`url` must be a path or a URL. Received: {url!r}.")
    if "://" in text and not text.startswith("file://"):
        return _RemoteFolder(text)
    return _LocalFolder(text.removeprefix("file://"))


class _LocalFolder:
    """A folder of a file system. See `DumpFolder`."""

    is_of_process = False

    def __init__(self, path: str) -> None:
        self._path = pathlib.Path(path).expanduser().absolute()
        self.path = str(self._path)

    def write(self, name: str, data: bytes) -> None:
        """See `DumpFolder`."""
        path = self._path / name
        temporary = path.with_name(path.name + PARTIAL)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # No `fsync`: a dump need not outlive a power cut, and each one costs a write of the disk.
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except OSError as error:
            raise DumpError(f"cannot write {path}: {error.strerror}.") from error

    def read(self, name: str) -> bytes:
        """See `DumpFolder`."""
        try:
            return (self._path / name).read_bytes()
        except OSError as error:
            raise DumpError(f"cannot read {self._path / name}: {error.strerror}.") from error

    def exists(self, name: str) -> bool:
        """See `DumpFolder`."""
        return (self._path / name).is_file()

    def names(self, folder: str = "") -> list[str]:
        """See `DumpFolder`."""
        try:
            return sorted(os.listdir(self._path / folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DumpError(f"cannot read {self._path / folder}: {error.strerror}.") from error


class _RemoteFolder:
    """A folder of a file system that fsspec reaches. See `DumpFolder`."""

    def __init__(self, url: str) -> None:
        self.path = url.rstrip("/")
        # Also in a chain: "simplecache::memory://a".
        self.is_of_process = "memory://" in url
        # `Any`: fsspec comes without types.
        self._files: Any
        self._files, self._root = open_url(self.path, "url", "storage")

    def write(self, name: str, data: bytes) -> None:
        """See `DumpFolder`."""
        path = f"{self._root}/{name}"
        # The libraries behind fsspec have errors of their own, which may be any.
        try:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            # Object stores put a file as a whole.
            self._files.pipe_file(path, data)
        except Exception as error:
            raise self._error("write", name, error) from error

    def read(self, name: str) -> bytes:
        """See `DumpFolder`."""
        try:
            return bytes(self._files.cat_file(f"{self._root}/{name}"))
        except Exception as error:
            raise self._error("read", name, error) from error

    def exists(self, name: str) -> bool:
        """See `DumpFolder`."""
        return name.rpartition("/")[2] in self.names(name.rpartition("/")[0])

    def names(self, folder: str = "") -> list[str]:
        """See `DumpFolder`."""
        path = f"{self._root}/{folder}".rstrip("/")
        try:
            # Listings are remembered by fsspec, and another process writes.
            self._files.invalidate_cache()
            found: Sequence[Any] = self._files.ls(path, detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._error("list", folder, error) from error
        return sorted(str(one).rstrip("/").rpartition("/")[2] for one in found)

    def _error(self, what: str, name: str, error: Exception) -> DumpError:
        told = f"{type(error).__name__}: {error}".rstrip(".: ")
        return DumpError(
            f"cannot {what} {self.path}/{name}".rstrip("/") + f": {told}. Valid: a URL whose "
            "server answers and whose credentials, here and on the workers, may list, read and write in it."
        )
