"""`Silence`: tells tasks that stand still from tasks that compute for a long time, and from dead ones.

A process that is stopped, or whose host stands still, keeps its connections: calls on it neither return nor fail. But a
gRPC server speaks first to whoever connects, within milliseconds, however busy its process is.

Threading: not safe; one thread looks. Cost: a connection to each task for each look, and `reach.CONNECT_S` for each
task that is silent.
"""

import logging
import time
from collections.abc import Callable, Iterable

from tfps.cluster import reach
from tfps.types import TaskKey

_LOG = logging.getLogger("tfps")

TELL_AFTER_S = 10.0
"""Seconds of silence after which the log names the task."""


class Silence:
    """Since when each task has been silent.

    Args:
        limit_s: the number of seconds after which a silent task counts as dead.
        is_silent: whether a task at an address says nothing.
        clock: returns the current second.
    """

    def __init__(
        self,
        limit_s: float,
        is_silent: Callable[[str], bool] = reach.is_silent,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit_s, self._is_silent, self._clock = limit_s, is_silent, clock
        self._since: dict[TaskKey, float] = {}
        self._told: set[TaskKey] = set()

    def look(self, tasks: Iterable[tuple[str, int, str]]) -> list[TaskKey]:
        """Connects to tasks, and logs which of them have become silent or answer again.

        Args:
            tasks: the job, the index and the address of each task.

        Returns:
            The tasks that have been silent for longer than the limit. Each is returned once.
        """
        over = []
        for job, index, address in tasks:
            key, before = (job, index), self._clock()
            if not self._is_silent(address):
                self._answers(key)
                continue
            silent_s = self._clock() - self._since.setdefault(key, before)
            if silent_s > self.limit_s:
                self._forget(key)
                over.append(key)
            elif silent_s > TELL_AFTER_S and key not in self._told:
                self._told.add(key)
                _LOG.warning(
                    "%s %d at %s has not answered for %.0f s: its process or its host stands still. After %.0f s "
                    "(TFPS_SILENCE_LIMIT_S) it counts as dead.",
                    job,
                    index,
                    address,
                    silent_s,
                    self.limit_s,
                )
        return over

    def _answers(self, key: TaskKey) -> None:
        if key in self._told:
            _LOG.warning("%s %d answers again after %.0f s.", *key, self._clock() - self._since[key])
        self._forget(key)

    def _forget(self, key: TaskKey) -> None:
        self._since.pop(key, None)
        self._told.discard(key)
