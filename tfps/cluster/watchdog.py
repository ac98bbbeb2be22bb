"""`Watchdog`: finds servers of this machine that stand still, without a wait and without a thread.

The zygote has one. The chief cannot always do it: TensorFlow may hold Python's lock while it sends to a server that
stands still, and then no Python of the chief runs until that server is killed.

Threading: not safe. Cost: a connection to each server every `_EVERY_S` seconds.
"""

import contextlib
import select
import socket
import time
from collections.abc import Callable, Mapping

from tfps.cluster.endpoints import split_address

_EVERY_S = 5.0
"""Seconds between an answer of a server and the next question."""


class Watchdog:
    """Asks servers whether they still answer. A gRPC server speaks first to whoever connects.

    Args:
        clock: returns the current second.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # For each server, by its process id, the connection that waits for its first byte, and since when it waits.
        self._asked: dict[int, tuple[socket.socket, float]] = {}
        # When each server has answered last.
        self._answered: dict[int, float] = {}

    def look(self, servers: Mapping[int, tuple[str, float]]) -> list[int]:
        """Asks servers, and returns those that have not answered for longer than their limit.

        Args:
            servers: for each process id, the address of the server, and its limit in seconds.
        """
        for pid in [pid for pid in self._asked if pid not in servers]:
            self._forget(pid)
        over = []
        for pid, (address, limit_s) in servers.items():
            if pid not in self._asked:
                if self._clock() - self._answered.get(pid, -_EVERY_S) >= _EVERY_S:
                    self._ask(pid, address)
                continue
            connection, since = self._asked[pid]
            # Readable also means closed or refused: then the process has ended, or is about to.
            if select.select([connection], [], [], 0)[0]:
                self._forget(pid)
                self._answered[pid] = self._clock()
            elif self._clock() - since > limit_s:
                self._forget(pid)
                over.append(pid)
        return over

    def _ask(self, pid: int, address: str) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.connect_ex(split_address(address))
        self._asked[pid] = connection, self._clock()

    def _forget(self, pid: int) -> None:
        connection, _ = self._asked.pop(pid)
        connection.close()
        self._answered.pop(pid, None)
