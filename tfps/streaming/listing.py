"""Finds the files of a pattern, on a disk by the standard library and in object stores by fsspec.

Threading: the main thread of the chief.
"""

import dataclasses
import datetime
import glob
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tfps.errors import SourceError
from tfps.files import open_url, url_of
from tfps.streaming.path_patterns import PathPattern


@dataclasses.dataclass(frozen=True)
class FoundFile:
    """A file of a stream.

    Args:
        path: its path or URL.
        modified_s: the time of its last change, seconds since 1970; None if the file system does not tell it.
        time_s: the time in its name, by the pattern; None if it has none.
    """

    path: str
    modified_s: float | None
    time_s: float | None


class Listing(Protocol):
    """Where files are looked for."""

    def check(self) -> None:
        """Checks that the folder is there.

        Raises:
            SourceError: it is not.
        """
        ...

    def files(self) -> list[FoundFile]:
        """Returns the files of the pattern, in any order.

        Raises:
            SourceError: the folder is not there, or cannot be read.
        """
        ...

    def names_in(self, folder: str) -> Sequence[str]:
        """Returns the names of the files in a folder; none if it is not there.

        Raises:
            SourceError: it cannot be read.
        """
        ...


class LocalListing:
    """The files of a disk.

    Args:
        pattern: the pattern, an absolute path.
    """

    def __init__(self, pattern: PathPattern) -> None:
        self._pattern = pattern

    def check(self) -> None:
        """See `Listing`."""
        folder = self._pattern.folder or "/"
        try:
            # Also the right to read it.
            os.listdir(folder)
        except OSError as error:
            raise SourceError(
                f"the folder {folder!r} of the stream cannot be read: {error.strerror}. Pattern: "
                f"{self._pattern.pattern!r}.",
                may_pass=True,
            ) from None

    def files(self) -> list[FoundFile]:
        """See `Listing`."""
        self.check()
        found = []
        for path in glob.iglob(self._pattern.glob, recursive=True):
            try:
                # The glob is wider than the pattern: a field that comes twice must have the same digits in both places.
                if self._pattern.matches(path) and os.path.isfile(path):
                    found.append(FoundFile(path, os.stat(path).st_mtime, self._pattern.time_of(path)))
            except FileNotFoundError:
                # Removed since; what is not there is not in the stream.
                continue
        return found

    def names_in(self, folder: str) -> Sequence[str]:
        """See `Listing`."""
        try:
            return os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise SourceError(f"the folder {folder!r} of the stream cannot be read: {error.strerror}.") from None


class StoreListing:
    """The files of an object store, or another file system of fsspec.

    Args:
        pattern: the pattern, a URL.
        options: what fsspec needs to open the file system, such as keys.

    Raises:
        ConfigError: fsspec, or what it needs for such a URL, is not installed.
    """

    def __init__(self, pattern: PathPattern, options: Mapping[str, Any]) -> None:
        self._pattern = pattern
        self._scheme = pattern.pattern.partition("://")[0]
        self._store = open_store(pattern.folder or f"{self._scheme}://", options)[0]
        # Without the scheme, which file systems write in several ways.
        self._inner = PathPattern(str(self._store._strip_protocol(pattern.pattern)))

    @property
    def is_of_one_process(self) -> bool:
        """Whether other processes would see other files."""
        return "memory" in _protocols(self._store)

    def check(self) -> None:
        """See `Listing`."""
        try:
            # fsspec remembers listings, and would never find a new file.
            self._store.invalidate_cache()
            inner = str(self._store._strip_protocol(self._pattern.folder))
            # Stores of objects have no empty folders, so the bucket alone must be there.
            bucket = inner.strip("/").partition("/")[0]
            if self._store.exists(inner) or (self._has_buckets and self._store.exists(bucket)):
                return
            reason = "it does not exist"
        # Each file system raises errors of its own.
        except Exception as error:
            reason = str(error) or type(error).__name__
        raise SourceError(
            f"the folder {self._pattern.folder!r} of the stream cannot be read: {reason}. Pattern: "
            f"{self._pattern.pattern!r}.",
            may_pass=True,
        )

    @property
    def _has_buckets(self) -> bool:
        return bool({"s3", "s3a", "gs", "gcs", "abfs", "az", "oss"} & set(_protocols(self._store)))

    def files(self) -> list[FoundFile]:
        """See `Listing`."""
        self.check()
        try:
            # With details, so that times of change cost no request for each file.
            found = self._store.glob(self._inner.glob, detail=True)
        except Exception as error:
            raise SourceError(
                f"the files {self._pattern.pattern!r} of the stream cannot be listed: {error}.", may_pass=True
            ) from None
        return [
            FoundFile(url_of(self._pattern.pattern, self._store, name), _modified_of(entry), self._inner.time_of(name))
            for name, entry in found.items()
            if entry.get("type", "file") == "file" and self._inner.matches(name)
        ]

    def names_in(self, folder: str) -> Sequence[str]:
        """See `Listing`."""
        try:
            return [
                str(one).rstrip("/").rpartition("/")[2]
                for one in self._store.ls(str(self._store._strip_protocol(folder)), detail=False)
            ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except Exception as error:
            raise SourceError(f"the folder {folder!r} of the stream cannot be read: {error}.", may_pass=True) from None


def open_store(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Returns the file system of a URL, and the path in it.

    Raises:
        ConfigError: fsspec, or what it needs for such a URL, is not installed.
    """
    return open_url(url, "url_pattern", "storage", options)


def _protocols(store: Any) -> tuple[str, ...]:
    found = store.protocol
    return (found,) if isinstance(found, str) else tuple(found)


def _modified_of(entry: Mapping[str, Any]) -> float | None:
    """Returns the time of the last change of a file, which each file system calls by another name."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "modified", "created"):
        value = entry.get(name)
        if isinstance(value, datetime.datetime):
            return (value if value.tzinfo else value.replace(tzinfo=datetime.timezone.utc)).timestamp()
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str):
            try:
                return datetime.datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
            except ValueError:
                continue
    return None
