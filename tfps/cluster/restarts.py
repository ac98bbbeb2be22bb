"""`Restarts`: decides whether and when a task that has died is started again.

A task whose host or input kills it would otherwise be started and killed for ever. So each task has a budget, and the
pauses between its starts grow.

Threading: not safe; the owner has a lock. Cost: none.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Hashable

from tfps import env


@dataclasses.dataclass(frozen=True)
class RestartPolicy:
    """How often a task may be started again, and after which pause.

    Args:
        most: the number of restarts of one task within `within_s`; by default TFPS_MAX_RESTARTS, else 5.
        within_s: the number of seconds for which a restart counts.
        first_pause_s: the pause before the second restart; the first one is immediate. Each later pause is twice as
            long, up to `longest_pause_s`.
        longest_pause_s: the longest pause.
    """

    most: int = dataclasses.field(default_factory=env.max_restarts)
    within_s: float = 600.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0


class Restarts:
    """The restarts of the tasks of one cluster.

    Args:
        policy: how often, and after which pause.
        clock: returns the current second.
    """

    def __init__(self, policy: RestartPolicy | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.policy, self._clock = policy or RestartPolicy(), clock
        # For each task, the seconds of its restarts that still count.
        self._seconds: dict[Hashable, collections.deque[float]] = collections.defaultdict(collections.deque)

    def next_start(self, task: Hashable) -> float | None:
        """Takes one restart of a task from its budget.

        Returns:
            The second, by the clock, at which the task may start again; None if its budget is used up.
        """
        now, before = self._clock(), self._seconds[task]
        while before and now - before[0] > self.policy.within_s:
            before.popleft()
        if len(before) >= self.policy.most:
            return None
        # Example: pauses of 0, 1, 2, 4 and 8 s, and then the budget of 5 is used up.
        pause = self.policy.first_pause_s * 2.0 ** (len(before) - 1) if before else 0.0
        start = now + min(pause, self.policy.longest_pause_s)
        before.append(start)
        return start

    def describe(self) -> str:
        """Returns the budget for a message: "5 restarts in 600 s (TFPS_MAX_RESTARTS)"."""
        return f"{self.policy.most} restarts in {self.policy.within_s:g} s (TFPS_MAX_RESTARTS)"
