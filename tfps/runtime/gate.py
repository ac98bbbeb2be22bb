"""`Gate`: keeps calls away from the tasks while some of them are replaced.

Threading: any thread passes; one thread at a time closes. The implementation uses no lock, because an interrupt by the
user at the moment when a lock is taken would leave it taken.
"""

import contextlib
import threading
import time
from collections.abc import Iterator

from tfps.runtime.waiting import Wait, wait_until

_LOOK_S = 0.01
"""Seconds between two looks of a thread whether the gate is open again."""


class Gate:
    """Lets calls pass, or waits for those that have passed and holds the others back.

    States: open -> closing (`closed` was entered, calls are still inside) -> closed -> open.
    """

    def __init__(self) -> None:
        self._closed = False
        # A token for each call inside: its thread, and an object of its own.
        self._inside: set[tuple[int, object]] = set()

    @contextlib.contextmanager
    def passage(self) -> Iterator[None]:
        """Runs a block while the gate is open; waits while it is closed."""
        token = threading.get_ident(), object()
        # Entered before the look: once the gate is closed, an empty set means that no call is inside or will be.
        self._inside.add(token)
        while self._closed and not self.has_passed():
            self._inside.discard(token)
            time.sleep(_LOOK_S)
            self._inside.add(token)
        try:
            yield
        finally:
            self._inside.discard(token)

    def has_passed(self) -> bool:
        """Whether this thread is within another passage. It may then not close the gate."""
        here = threading.get_ident()
        # A copy, because other threads change the set.
        return sum(thread == here for thread, _ in tuple(self._inside)) > 1

    @property
    def is_used(self) -> bool:
        """Whether a call is inside."""
        return bool(self._inside)

    @contextlib.contextmanager
    def closed(self, wait: Wait) -> Iterator[None]:
        """Runs a block while no call is inside.

        Args:
            wait: how long to wait for the calls inside.

        Raises:
            ClusterTimeoutError: calls are still inside.
        """
        self._closed = True
        try:
            wait_until(lambda: not self._inside, wait)
            yield
        finally:
            self._closed = False
