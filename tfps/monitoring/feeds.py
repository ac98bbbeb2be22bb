"""Feeds of snapshots for a board: from a program of this machine, or from the metrics port of a chief.

Threading: one thread. Ownership: a feed is a context manager, and closes its connection.
"""

import abc
import contextlib
import http.client
import pathlib
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from tfps.checks import show_value
from tfps.errors import ClusterError, ConfigError
from tfps.monitoring import runtime_folder
from tfps.monitoring.collector import EVERY_S
from tfps.monitoring.snapshot import Snapshot

if TYPE_CHECKING:
    from typing_extensions import Self  # in `typing` from Python 3.11 on

_LIMIT_S = 10.0
"""Seconds to wait for a snapshot before the job counts as silent."""
_LOOK_S = 0.5
_LINE_BYTES = 1 << 24
_MOST_FAILURES = 3
"""Requests in a row without an answer after which a job has ended."""


class Feed(abc.ABC):
    """Snapshots of one job.

    Args:
        where: the job, for messages.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    @abc.abstractmethod
    def snapshots(self) -> Iterator[Snapshot | None]:
        """Yields snapshots until the job ends; and None every half second, so that its reader can do other things.

        Raises:
            ClusterError: there is no such job.
        """

    def close(self) -> None:
        """Closes the connection, if there is one."""
        return

    def __enter__(self) -> "Self":
        """Returns the feed."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connection."""
        self.close()


class SocketFeed(Feed):
    """Snapshots of a program of this user on this machine.

    Args:
        path: its socket.

    Raises:
        ClusterError: nobody listens there.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path, self._pid = path, int(path.name.partition("-")[0])
        super().__init__(f"process {self._pid}")
        try:
            self._connection = self._connect()
        except OSError as error:
            raise ClusterError(f"{self.where} cannot be watched: {error}.") from error

    def _connect(self) -> socket.socket:
        connection = runtime_folder.connect(self._path, _LIMIT_S)
        connection.settimeout(_LOOK_S)
        return connection

    def snapshots(self) -> Iterator[Snapshot | None]:
        """See `Feed`."""
        pending = b""
        while len(pending) < _LINE_BYTES:
            try:
                data = self._connection.recv(1 << 16)
            except TimeoutError:
                yield None
                continue
            except OSError:
                data = b""
            if not data:
                # The reader looks at its deadline and its keys, however often the job closes the connection.
                yield None
                # A job that says nothing for long leaves its boards, and may be there all the same.
                if not self._connect_again():
                    return
                pending = b""
                continue
            *lines, pending = (pending + data).split(b"\n")
            # A board that was stopped has missed some; the last one is what counts.
            if lines:
                self._check_accepted(lines[-1])
                yield Snapshot.from_json(lines[-1])

    def _check_accepted(self, line: bytes) -> None:
        """Raises a ClusterError if the job has refused this board."""
        if line.startswith(runtime_folder.REFUSED):
            why = line.removeprefix(runtime_folder.REFUSED).decode(errors="replace")
            raise ClusterError(f"{self.where} cannot be watched: {why}.")

    def _connect_again(self) -> bool:
        """Connects again if the job is still there; returns whether it is."""
        self.close()
        time.sleep(_LOOK_S)
        if not runtime_folder.is_alive(self._pid) or not self._path.exists():
            return False
        try:
            self._connection = self._connect()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """See `Feed`."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


class HttpFeed(Feed):
    """Snapshots from the metrics port of a chief.

    Args:
        url: "http://host:port".

    Raises:
        ConfigError: the URL is none.
    """

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise ConfigError(f"`job` must be http://host:port. Received: {show_value(url)}.")
        super().__init__(url)
        self._url = urllib.parse.urlunsplit((parts.scheme, parts.netloc, "/snapshot.json", "", ""))

    def snapshots(self) -> Iterator[Snapshot | None]:
        """See `Feed`."""
        failures, answered = 0, False
        while failures < _MOST_FAILURES:
            began = time.monotonic()
            try:
                with urllib.request.urlopen(self._url, timeout=_LIMIT_S) as answer:
                    snapshot = Snapshot.from_json(answer.read(_LINE_BYTES))
            except (OSError, http.client.HTTPException, ConfigError) as error:
                if not answered:
                    raise ClusterError(f"{self.where} cannot be watched: {error}.") from error
                failures += 1
                yield None
            else:
                failures, answered = 0, True
                yield snapshot
            while (left := EVERY_S - (time.monotonic() - began)) > 0:
                time.sleep(min(left, _LOOK_S))
                yield None
