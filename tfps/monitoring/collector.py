"""`Collector`: makes a snapshot of a job every few seconds, while somebody wants one, in a thread of its own.

Training never waits for it: the thread reads counts, and asks tasks with a time limit. Without a subscriber there is
no thread. A subscriber that reads slowly misses snapshots, and holds nobody up.

Threading: any thread may subscribe. A subscription belongs to one thread. Cost: none without a subscriber, else what
the function that makes snapshots costs.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from tfps.errors import ClusterTimeoutError, TfpsError
from tfps.monitoring.snapshot import Snapshot

_LOG = logging.getLogger("tfps")

EVERY_S = 2.0
"""Seconds between two snapshots: CPU time is counted in hundredths of a second, and people read no faster."""

_LOOK_S = 0.05


class Subscription:
    """One who wants snapshots. `Collector.subscribe` makes it, as a context manager.

    Args:
        collector: the collector.
    """

    def __init__(self, collector: "Collector") -> None:
        self._collector = collector
        # A snapshot from before the subscription may be old.
        self._seen = collector.made

    def latest(self) -> Snapshot | None:
        """Returns the newest snapshot; None if there is none yet. Never waits."""
        return self._collector.latest()

    def next(self, timeout_s: float) -> Snapshot:
        """Waits for a snapshot that this subscription has not returned yet.

        Raises:
            ClusterTimeoutError: none came within `timeout_s` seconds, or the collector has ended.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not self._collector.closed:
            made, snapshot = self._collector.made, self._collector.latest()
            if made > self._seen and snapshot is not None:
                self._seen = made
                return snapshot
            time.sleep(_LOOK_S)
        why = "its strategy has ended" if self._collector.closed else f"waited {timeout_s:g} s"
        raise ClusterTimeoutError(f"there is no new snapshot of the job: {why}.")


class Collector:
    """Makes snapshots while there are subscribers.

    Ownership: whoever makes it closes it. Its thread is a daemon, and ends by itself after the last subscriber.

    Args:
        make: makes a snapshot. It may raise `TfpsError` or OSError, and then this one is left out.
        every_s: the seconds between two.

    Attributes:
        made: how many snapshots there were.
        closed: whether `close` was called.
    """

    def __init__(self, make: Callable[[], Snapshot], every_s: float = EVERY_S) -> None:
        self._make, self.every_s = make, every_s
        # Guards the fields below but `_latest`, which one assignment replaces.
        self._lock = threading.Lock()
        self._subscribers = 0
        self._thread: threading.Thread | None = None
        self._until = 0.0
        self._wake = threading.Event()
        self._latest: Snapshot | None = None
        self.made = 0
        self.closed = False

    def latest(self) -> Snapshot | None:
        """Returns the newest snapshot; None if there is none, or nobody has wanted one. Never waits."""
        return self._latest

    @contextlib.contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Keeps snapshots coming while the context lasts; the first is made at once."""
        with self._lock:
            self._subscribers += 1
            self._start()
        try:
            yield Subscription(self)
        finally:
            with self._lock:
                self._subscribers -= 1

    def want(self, for_s: float) -> None:
        """Keeps snapshots coming for some seconds: for those who ask now and then and never say that they are done."""
        with self._lock:
            self._until = max(self._until, time.monotonic() + for_s)
            self._start()

    def close(self) -> None:
        """Ends the thread, soon. No snapshot is made after that."""
        self.closed = True
        self._wake.set()

    def _start(self) -> None:
        """Starts the thread if it does not run; called with the lock."""
        if self._thread is None and not self.closed:
            self._thread = threading.Thread(target=self._run, daemon=True, name="tfps-collector")
            self._thread.start()

    def _is_wanted(self) -> bool:
        """Whether to go on. If not, the thread counts as ended, within the lock: the next subscriber starts another."""
        with self._lock:
            wanted = not self.closed and (self._subscribers > 0 or time.monotonic() < self._until)
            if not wanted:
                self._thread = None
            return wanted

    def _run(self) -> None:
        while self._is_wanted():
            began = time.monotonic()
            try:
                snapshot = self._make()
            except (TfpsError, OSError) as error:
                # The cluster may be ending, or a task is being replaced. The next snapshot shows it.
                _LOG.debug("no snapshot of the job: %s", error)
            else:
                self._latest, self.made = snapshot, self.made + 1
            self._wake.wait(max(0.0, self.every_s - (time.monotonic() - began)))
