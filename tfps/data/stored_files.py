"""Finds files by URL and reads ranges of them, by any file system of fsspec. No TensorFlow.

A file has a version: its size and what the store tells of its last change. Each range is read first and its version
checked then, so a range of a file that was changed is never used.

Threading: any thread.
"""

import dataclasses
import datetime
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from tfps.data.retries import describe, with_retries
from tfps.errors import ConfigError, SourceError
from tfps.files import open_url, url_of
from tfps.types import JSON

_T = TypeVar("_T")

_MARKS = {
    "etag": ("ETag", "etag", "generation", "md5Hash", "content_md5"),
    "time": ("modificationTime", "mtime", "LastModified", "last_modified", "updated", "modified", "created"),
}
"""What stores call a mark of the content of a file, or the time of its last change. A listing may not have both."""


@dataclasses.dataclass(frozen=True)
class StoredFile:
    """A file as it was found.

    Args:
        url: its URL.
        size: its bytes.
        mark: what tells one content from another, beside the size: its kind in `_MARKS`, a colon and the value; empty
            if the store tells nothing.
    """

    url: str
    size: int
    mark: str


@dataclasses.dataclass(frozen=True)
class Access:
    """How files are read.

    Args:
        options: what fsspec needs to open the file system, such as keys.
        patience_s: the seconds in which one request must succeed, its repetitions included.
    """

    options: Mapping[str, JSON]
    patience_s: float

    def open(self, url: str) -> tuple[Any, str]:
        """Returns the file system of a URL and the path in it.

        Raises:
            ConfigError: fsspec, or what it needs for such a URL, is not installed.
            SourceError: the store refuses to be opened.
        """
        options = dict(self.options)
        is_s3 = url.startswith(("s3://", "s3a://"))
        if is_s3:
            # botocore repeats requests, too, and keeps what the store answers to itself for so long.
            config = options.get("config_kwargs") or {}
            if isinstance(config, dict):
                options["config_kwargs"] = {"retries": {"total_max_attempts": 1}} | config
        try:
            store, path = open_url(url, "urls", "storage", options)
        except OSError as error:
            raise SourceError(f"opening {url!r} failed: {describe(error).rstrip('.')}.") from None
        if is_s3:
            # s3fs does it again on top. The settings above make the file system one of this package alone.
            store.retries = 1
        return store, path


def find_files(patterns: Sequence[str], access: Access) -> list[StoredFile]:
    """Returns the files of URLs or patterns: in the order of the patterns, and by name within one.

    Raises:
        ConfigError: nothing opens such a URL, or a pattern has no file.
        SourceError: the store does not answer, or refuses.
    """
    found: dict[str, StoredFile] = {}
    for pattern in patterns:
        for file in _find(pattern, access):
            # A file of two patterns is read once.
            found.setdefault(file.url, file)
    return list(found.values())


def _find(pattern: str, access: Access) -> list[StoredFile]:
    store, path = access.open(pattern)
    # A question mark in a URL of the web begins its query.
    has_fields = any(character in path for character in ("*[" if pattern.startswith("http") else "*?["))

    def look() -> dict[str, Mapping[str, Any]]:
        # fsspec remembers listings.
        store.invalidate_cache()
        if not has_fields:
            return {path: store.info(path)}
        # A name may have brackets. As in a shell, a pattern that matches nothing is a name.
        return dict(store.glob(path, detail=True)) or _look_for_name(store, path)

    entries = with_retries(f"listing {pattern!r}", look, access.patience_s)
    files = {name: entry for name, entry in entries.items() if entry.get("type", "file") == "file"}
    if not files:
        kind, valid = "has no file", "a pattern that files match, where '[[]' is a bracket of a name"
        if entries:
            kind = "has folders alone" if has_fields else "is a folder"
            valid = f"a URL with a pattern, such as '{pattern.rstrip('/')}/*'"
        raise ConfigError(f"`urls` must name files. Received: {pattern!r}, which {kind}. Valid: {valid}.")
    return [_stored(url_of(pattern, store, name), _complete(store, name, files[name])) for name in sorted(files)]


def _look_for_name(store: Any, path: str) -> dict[str, Mapping[str, Any]]:
    """Returns the entry of a file that has the characters of a pattern in its name; nothing if there is none."""
    try:
        return {path: store.info(path)}
    except FileNotFoundError:
        return {}


def _complete(store: Any, name: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns what a store tells of a file; the pages of web servers list names alone."""
    return entry if entry.get("size") is not None else dict(store.info(name))


def _stored(url: str, entry: Mapping[str, Any]) -> StoredFile:
    size = entry.get("size")
    if size is None:
        raise SourceError(f"the store does not tell the size of {url!r}. Valid: a server that sends Content-Length.")
    mark = next((f"{kind}:{value}" for kind in _MARKS if (value := _mark(entry, kind))), "")
    return StoredFile(url, int(size), mark)


def _mark(entry: Mapping[str, Any], kind: str) -> str:
    """Returns the mark of a kind; empty if there is none."""
    value = next((entry[name] for name in _MARKS[kind] if entry.get(name) is not None), "")
    # One file system lists seconds and tells a date of one file.
    return str(value.timestamp() if isinstance(value, datetime.datetime) else value)


def _check_unchanged(file: StoredFile, entry: Mapping[str, Any]) -> None:
    """Raises the error for a file that is not what was found."""
    kind, _, mark = file.mark.partition(":")
    now = _mark(entry, kind) if kind else ""
    size = file.size if entry.get("size") is None else entry["size"]
    if size != file.size or (now and now != mark):
        raise SourceError(
            f"the file {file.url!r} was changed while it was read: it had {file.size} bytes and the mark {mark!r}, now "
            f"{size} bytes and {now!r}. Valid: files that stay as they are; write new files beside them."
        )


def read_range(file: StoredFile, begin: int, end: int, access: Access) -> bytes:
    """Returns the bytes of a range of a file.

    Args:
        file: the file, as it was found.
        begin: the first byte.
        end: the byte after the last one, at most the size.
        access: how to read it.

    Raises:
        SourceError: it cannot be read, or is not what was found any more.
    """
    store, path = access.open(file.url)

    def read() -> bytes:
        try:
            data = bytes(store.cat_file(path, start=begin, end=end))
        except Exception:
            # A store refuses a range behind the end of a file that has become shorter, in words of its own.
            store.invalidate_cache()
            _check_unchanged(file, store.info(path))
            raise
        if len(data) == file.size and begin > 0:
            # A web server that knows no ranges sends the whole file.
            data = data[begin:end]
        store.invalidate_cache()
        _check_unchanged(file, store.info(path))
        if len(data) != end - begin:
            raise ConnectionError(f"{len(data)} bytes came of {end - begin}")
        return data

    if begin >= end:
        return b""
    return with_retries(f"reading bytes {begin} to {end} of {file.url!r}", read, access.patience_s)


def is_of_one_process(url: str, access: Access) -> bool:
    """Whether other processes would not see the file."""
    protocol = access.open(url)[0].protocol
    return "memory" in ((protocol,) if isinstance(protocol, str) else protocol)


def broken(file: StoredFile, place: str, error: object) -> SourceError:
    """Returns the error for a file whose content is wrong.

    Args:
        file: the file.
        place: the line, record or row group.
        error: what is wrong.
    """
    reason = describe(error) if isinstance(error, BaseException) else str(error)
    return SourceError(f"the file {file.url!r} is broken at {place}: {reason.rstrip('.')}.")


class FileCache(Generic[_T]):
    """What was read of files, by file. Threads may read one twice, and find the same.

    Args:
        most: the number of files that are remembered.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: dict[StoredFile, _T] = {}
        self._lock = threading.Lock()

    def get(self, file: StoredFile, read: Callable[[], _T]) -> _T:
        """Returns what is remembered of a file, or reads it."""
        with self._lock:
            if file in self._found:
                return self._found[file]
        # Outside of the lock, because other files are read meanwhile.
        value = read()
        with self._lock:
            if len(self._found) >= self._most:
                self._found.pop(next(iter(self._found)))
            self._found[file] = value
        return value
