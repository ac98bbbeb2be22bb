"""Files that are whole or not there after a crash, locks of writers, and file systems by URL.

Whoever writes something for other programs uses these: checkpoints, exports for serving, streams. No TensorFlow.
"""

import fcntl
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from tfps.errors import ConfigError

PARTIAL = ".partial"
"""The end of the name of what is being written."""


def write_durably(path: pathlib.Path, data: bytes) -> None:
    """Writes a new file and brings it to the disk.

    Raises:
        OSError: it cannot be written.
    """
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        # A rename may reach the disk before the content; after a power cut the file would be empty.
        os.fsync(file.fileno())


def replace_durably(path: pathlib.Path, data: bytes) -> None:
    """Replaces a file: a reader sees the old content or the new one, also after a power cut.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(path.name + PARTIAL)
    write_durably(temporary, data)
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: pathlib.Path) -> None:
    """Brings a file, or the names in a folder, to the disk.

    Raises:
        OSError: the disk cannot be written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def take_lock(descriptor: int) -> bool:
    """Locks an open file for this process, until the file is closed; returns whether no other process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # Some network file systems have no locks. Callers have a second way to notice another writer.
        pass
    return True


def open_url(url: str, argument: str, extra: str, options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """Returns the fsspec file system of a URL, and the path in it.

    Args:
        url: the URL.
        argument: the name of the user's argument, for messages.
        extra: the extra of tfps that brings fsspec, for messages.
        options: options of the file system.

    Raises:
        ConfigError: fsspec, or what it needs for such a URL, is not installed.
    """
    try:
        import fsspec
    except ImportError:
        raise ConfigError(
            f"`{argument}` is a URL, which needs fsspec. Received: {url!r}. Valid: a path; or pip install "
            f"tfps[{extra}]."
        ) from None
    try:
        files, path = fsspec.core.url_to_fs(url, **(options or {}))
    except (ImportError, ValueError, TypeError) as error:
        raise ConfigError(f"`{argument}` must be a URL that fsspec can open. Received: {url!r} ({error}).") from None
    except OSError as error:
        # pyarrow loads Hadoop's client when a file system is made.
        if "libjvm" not in str(error) and "libhdfs" not in str(error):
            raise
        # Each place where it was looked for is a line.
        text = str(error).splitlines()[0]
        raise ConfigError(
            f"`{argument}` must be a URL that can be opened. Received: {url!r} ({text}). Valid: Java and Hadoop's "
            "libhdfs installed, with JAVA_HOME, HADOOP_HOME and CLASSPATH set; or a URL webhdfs://, which needs none."
        ) from None
    return files, str(path)


def url_of(url: str, files: Any, path: str) -> str:
    """Returns the URL of a path that a file system lists.

    Args:
        url: a URL of the same file system, which may name a host: fsspec's paths do not.
        files: the fsspec file system.
        path: the path.
    """
    own = str(files._strip_protocol(url))
    # Example: "webhdfs://host:9870/logs/*" has the path "/logs/*", so all before it stays.
    if url.endswith(own) and own:
        return url.removesuffix(own) + path
    return str(files.unstrip_protocol(path))
