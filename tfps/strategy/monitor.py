"""`Monitor`: lets others watch the job of a strategy: boards, the metrics port, callbacks.

Threading: made and closed by the thread that makes strategies; any thread may subscribe. Ownership: the strategy has
it. It ends with the connection, or when the strategy is collected. Cost: a thread that waits, until somebody watches.
"""

import contextlib
import logging
import time
from typing import TYPE_CHECKING

from tfps import env, jobs
from tfps.cluster import background
from tfps.errors import TfpsError
from tfps.monitoring.collector import Collector, Subscription
from tfps.monitoring.metric_families import JobMetrics, TaskMetrics
from tfps.monitoring.metrics_port import MetricsPort, open_port
from tfps.monitoring.publishing import Publisher
from tfps.monitoring.snapshot import Snapshot
from tfps.strategy.job_reader import JobReader

if TYPE_CHECKING:
    from tfps.strategy.strategy import ParameterServerStrategy

_LOG = logging.getLogger("tfps")
_WANTED_S = 60.0
"""Seconds for which snapshots are made after a request to the port: Prometheus scrapes once in 15 to 60 seconds."""


class Monitor:
    """What watches one job.

    Args:
        strategy: the strategy; it is not kept.

    Attributes:
        record: what the job has done.
    """

    def __init__(self, strategy: "ParameterServerStrategy") -> None:
        self.record = strategy.record
        self._ways = _Ways(strategy)
        # A strategy that nobody uses any more is collected, and this with it. No thread of it may stay.
        self._cancel_finalizer = background.finalize(self, self._ways.close)

    def subscribe(self) -> contextlib.AbstractContextManager[Subscription]:
        """Keeps snapshots coming, one every two seconds, while the context lasts."""
        return self._ways.collector.subscribe()

    def latest(self) -> Snapshot | None:
        """Returns the newest snapshot, maybe an old one; None if nobody has wanted one. Never waits."""
        return self._ways.collector.latest()

    def close(self) -> None:
        """Ends all of it: the strategy ends."""
        self._cancel_finalizer()
        self._ways.close()


class _Ways:
    """The ways in which others see the job. This is not part of `Monitor`, because they end after it was collected.

    Args:
        strategy: the strategy; it is not kept.
    """

    def __init__(self, strategy: "ParameterServerStrategy") -> None:
        self._reader = JobReader(strategy)
        self.collector = Collector(self._make)
        self._publisher: Publisher | None = None
        try:
            self._publisher = Publisher(self.collector)
        # A program trains all the same where it has no folder for a socket.
        except (TfpsError, OSError) as error:
            _LOG.info("tfps-top will not find this program: %s", error)
        port = env.metrics_port()
        self._port = None if port is None else self._open_port(port, strategy)

    def _make(self) -> Snapshot:
        """Makes a snapshot, and ends the collector once there is nothing to see.

        Raises:
            ClusterError: the strategy has ended.
        """
        # A server may have died for good, and with it the strategy, while its program still runs.
        if self._reader.has_ended:
            self.collector.close()
        return self._reader.read()

    def _open_port(self, port: int, strategy: "ParameterServerStrategy") -> MetricsPort | None:
        tasks = [(jobs.PS, index) for index in range(strategy.num_servers)]
        tasks += [(jobs.WORKER, index) for index in range(strategy.num_workers)]
        job = JobMetrics(strategy.record.counts, self._latest, tuple(tasks))
        return open_port(port, f"{jobs.CHIEF} 0", [TaskMetrics(jobs.CHIEF, 0), job], self._wait)

    def _latest(self) -> Snapshot | None:
        """Returns the newest snapshot for a scrape, which does not wait; the next scrape finds a newer one."""
        self.collector.want(_WANTED_S)
        return self.collector.latest()

    def _wait(self, timeout_s: float) -> Snapshot:
        """Waits for a snapshot for a board that asks by HTTP.

        Raises:
            ClusterTimeoutError: none came.
        """
        self.collector.want(_WANTED_S)
        newest = self.collector.latest()
        if newest is not None and time.time() - newest.at < self.collector.every_s:
            return newest
        with self.collector.subscribe() as subscription:
            return subscription.next(timeout_s)

    def close(self) -> None:
        """Ends all of them."""
        self.collector.close()
        if self._publisher is not None:
            self._publisher.close()
        if self._port is not None:
            self._port.close()
