"""`Rates`: rates of counts, over the last seconds."""

import collections
from collections.abc import Hashable

WINDOW_S = 6.0
"""Closures end in bursts, so a rate is over some of them. A kill still shows within seconds."""


class Rates:
    """The rates of any number of counts, each with a key.

    Threading: one thread. Cost: a few numbers for each key.

    Args:
        window_s: the seconds that a rate is over; less at the beginning.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        # For each key, the moments of the window with the count at each.
        self._seen: dict[Hashable, collections.deque[tuple[float, float]]] = {}

    def rate(self, key: Hashable, count: float | None, now: float) -> float | None:
        """Returns the rate of a count in a second; None before its second value.

        Args:
            key: what is counted.
            count: the count; None if it is not known.
            now: the second of the count, by any clock that does not go back.
        """
        if count is None:
            # Its source is gone; a new one begins at another count.
            self._seen.pop(key, None)
            return None
        seen = self._seen.setdefault(key, collections.deque())
        # A process that was started again counts from 0.
        if seen and count < seen[-1][1]:
            seen.clear()
        seen.append((now, count))
        while len(seen) > 2 and now - seen[1][0] >= self._window_s:
            seen.popleft()
        (then, before), _ = seen[0], seen[-1]
        return (count - before) / (now - then) if now > then else None
