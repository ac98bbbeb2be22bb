"""Feeds of snapshots for a board: from a program of this machine, or from the metrics port of a chief.

Threading: one thread. Ownership: a feed is a context manager, and closes its connection.
"""

import abc
import contextlib
import http
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

    def check(self) -> None:
        """Looks whether the job is there, without a snapshot.

        Raises:
            ClusterError: it is not.
        """
        return

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
                try:
                    yield Snapshot.from_json(lines[-1])
                except ConfigError as error:
                    raise ClusterError(f"{self.where} cannot be watched, for it has another tfps: {error}") from error

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
        try:
            parts = urllib.parse.urlsplit(url)
            is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.path in ("", "/")
            # A port that is no number raises.
            is_url = is_url and not (parts.query or parts.fragment) and parts.port != 0
        except ValueError:
            is_url = False
        if not is_url:
            raise ConfigError(f"`job` must be http://host:port without a path. Received: {show_value(url)}.")
        super().__init__(url)
        self._url = urllib.parse.urlunsplit((parts.scheme, parts.netloc, "/snapshot.json", "", ""))

    def check(self) -> None:
        """See `Feed`."""
        parts = urllib.parse.urlsplit(self._url)
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname or "", port), _LIMIT_S).close()
        # A UnicodeError, which is a ValueError: the name is none of a host.
        except (OSError, ValueError) as error:
            raise ClusterError(f"{self.where} cannot be watched: {error}.") from error

    def snapshots(self) -> Iterator[Snapshot | None]:
        """See `Feed`."""
        failures, answered = 0, False
        while failures < _MOST_FAILURES:
            began = time.monotonic()
            try:
                snapshot = self._ask()
            except ClusterError:
                if not answered:
                    raise
                failures += 1
                yield None
            else:
                failures, answered = 0, True
                yield snapshot
            while (left := EVERY_S - (time.monotonic() - began)) > 0:
                time.sleep(min(left, _LOOK_S))
                yield None

    def _ask(self) -> Snapshot:
        """Asks for one snapshot.

        Raises:
            ClusterError: there was none in the answer.
        """
        try:
            with urllib.request.urlopen(self._url, timeout=_LIMIT_S) as answer:
                return Snapshot.from_json(answer.read(_LINE_BYTES))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == http.HTTPStatus.NOT_FOUND:
                raise ClusterError(
                    f"{self.where} is not the metrics port of a chief (it has no /snapshot.json). Valid: the port that "
                    "was given to --metrics-port."
                ) from error
            # The words beside the number may be anything.
            raise ClusterError(f"{self.where} cannot be watched: HTTP error {error.code}.") from error
        except ConfigError as error:
            raise ClusterError(
                f"`job` must be the metrics port of a tfps chief; {self.where} answered with something else: {error}"
            ) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ClusterError(f"{self.where} cannot be watched: {error}.") from error
