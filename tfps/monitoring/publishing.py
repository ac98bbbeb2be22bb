"""`Publisher`: gives the snapshots of a job to the boards of this machine, over a Unix socket.

A board connects, and gets a line of JSON for each snapshot until it goes. Snapshots are made only while a board is
there. Without one, the program has a thread that waits in `accept`, and spends nothing.

Threading: a thread for the socket and one for each board, all daemons. Ownership: `close` ends them, and removes the
socket; so does the end of the program, unless it is killed.
"""

import atexit
import contextlib
import dataclasses
import itertools
import logging
import os
import pathlib
import socket
import threading
import weakref

from tfps.errors import ClusterTimeoutError
from tfps.monitoring import runtime_folder
from tfps.monitoring.collector import Collector

_LOG = logging.getLogger("tfps")
_NUMBERS = itertools.count()
_MOST_BOARDS = 8
"""Boards at one time. Each has a thread of the program that trains."""
_SEND_S = 2.0
"""Seconds for which a board may not read, stopped by Ctrl-Z say, before it is left."""
_QUIET_S = 30.0
"""Seconds without a snapshot, as while a server is replaced, after which a board is left; it may connect again."""


class Publisher:
    """Listens for boards.

    Args:
        collector: makes the snapshots.

    Raises:
        ClusterError: there is no folder for the socket.
        OSError: the socket cannot be made.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self.path = runtime_folder.socket_path(runtime_folder.make_folder(), os.getpid(), next(_NUMBERS))
        self._owner = os.getpid()
        self._listener = _listen(self.path)
        self._boards = threading.Semaphore(_MOST_BOARDS)
        # By a weak reference, because `atexit` would otherwise keep every publisher until the process ends.
        atexit.register(_close, weakref.ref(self))
        # The thread holds no reference to this object, which may be dropped with its strategy.
        threading.Thread(
            target=_accept, args=(self._listener, collector, self._boards), daemon=True, name="tfps-publish"
        ).start()

    def close(self) -> None:
        """Removes the socket and ends the thread. Boards that are connected get the last snapshot."""
        # The socket of a program belongs to it, not to its forks.
        if os.getpid() != self._owner:
            return
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            # Wakes the thread; `close` alone would leave it waiting.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _close(publisher: "weakref.ref[Publisher]") -> None:
    """Closes a publisher at the end of the process, if it still exists."""
    alive = publisher()
    if alive is not None:
        alive.close()


def _listen(path: pathlib.Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # One of an earlier process with this number.
        path.unlink(missing_ok=True)
        with runtime_folder.short_address(path) as address:
            listener.bind(address)
        path.chmod(0o600)
        listener.listen(_MOST_BOARDS)
    except BaseException:
        listener.close()
        raise
    return listener


def _accept(listener: socket.socket, collector: Collector, boards: threading.Semaphore) -> None:
    """Serves each board in a thread of its own, until the listener is closed."""
    while True:
        try:
            board, _ = listener.accept()
        except OSError:
            return
        if not boards.acquire(blocking=False):
            _LOG.info("a board is refused: %d others watch this program.", _MOST_BOARDS)
            _refuse(board)
            continue
        threading.Thread(target=_serve, args=(board, collector, boards), daemon=True, name="tfps-board").start()


def _refuse(board: socket.socket) -> None:
    """Tells a board why it gets nothing, and closes its connection."""
    # The line fits into the buffer of a new socket, so this does not wait.
    board.settimeout(0.0)
    with board, contextlib.suppress(OSError):
        board.sendall(runtime_folder.REFUSED + f"{_MOST_BOARDS} others watch it\n".encode())


def _serve(board: socket.socket, collector: Collector, boards: threading.Semaphore) -> None:
    """Sends snapshots to one board until it goes, or the strategy ends."""
    board.settimeout(_SEND_S)
    try:
        with board, collector.subscribe() as subscription:
            while not collector.closed:
                with contextlib.suppress(ClusterTimeoutError):
                    board.sendall(subscription.next(_QUIET_S).to_json().encode() + b"\n")
                    continue
                break
            last = collector.latest()
            if collector.closed and last is not None:
                board.sendall(dataclasses.replace(last, phase="ended").to_json().encode() + b"\n")
    # The board is gone, or does not read.
    except OSError as error:
        _LOG.debug("a board has gone: %s", error)
    finally:
        boards.release()
