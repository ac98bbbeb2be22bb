"""`Monitor`: lets others watch the job of a strategy: boards, the metrics port, callbacks.

Threading: made and closed by the thread that makes strategies; any thread may subscribe. Ownership: the strategy has
it, and its connection closes it. Cost: a thread that waits, until somebody watches.
"""

import contextlib
import logging
from typing import TYPE_CHECKING

from tfps.errors import TfpsError
from tfps.monitoring.collector import Collector, Subscription
from tfps.monitoring.publishing import Publisher
from tfps.monitoring.snapshot import Snapshot
from tfps.strategy.job_reader import JobReader

if TYPE_CHECKING:
    from tfps.strategy.strategy import ParameterServerStrategy

_LOG = logging.getLogger("tfps")


class Monitor:
    """What watches one job.

    Args:
        strategy: the strategy; it is not kept.

    Attributes:
        record: what the job has done.
    """

    def __init__(self, strategy: "ParameterServerStrategy") -> None:
        self.record = strategy.record
        self._collector = Collector(JobReader(strategy).read)
        self._publisher: Publisher | None = None
        try:
            self._publisher = Publisher(self._collector)
        # A program trains all the same where it has no folder for a socket.
        except (TfpsError, OSError) as error:
            _LOG.info("tfps-top will not find this program: %s", error)

    def subscribe(self) -> contextlib.AbstractContextManager[Subscription]:
        """Keeps snapshots coming, one every two seconds, while the context lasts."""
        return self._collector.subscribe()

    def latest(self) -> Snapshot | None:
        """Returns the newest snapshot, maybe an old one; None if nobody has wanted one. Never waits."""
        return self._collector.latest()

    def close(self) -> None:
        """Ends all of it: the strategy ends."""
        self._collector.close()
        if self._publisher is not None:
            self._publisher.close()
