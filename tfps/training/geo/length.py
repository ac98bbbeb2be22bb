"""How long windows are (GEO), where nobody said: as long as pays, found by timing them."""

import logging
import math
import statistics

LONGEST = 1024
"""Steps of a window at most where nobody said how many: a worker's memory grows with them."""
_SHORTEST, _FACTOR = 4, 4
"""Steps of the first windows, and how many times as long the next ones are."""
_WINDOWS = 5
"""Windows of one length that are timed."""
_WORTH_IT = 0.9
"""A length is worth it if a step takes at most this part of what it took in shorter windows."""
_LOG = logging.getLogger("tfps")


class Length:
    """Finds how long windows are to be: makes them four times as long, while that makes a step a tenth cheaper.

    The cost of an exchange is spread over the steps of its window, so a step gets cheaper as windows get longer, until
    the part that grows with the window is all of it. Longer windows would be staler for nothing.

    Example: an exchange of 10 ms and a step of 1 ms. Steps take 3.5 ms in windows of 4, 1.6 in 16, 1.16 in 64, 1.04 in
    256, 1.01 in 1,024: the last is not a tenth cheaper, so windows have 256 steps.

    Attributes:
        steps: steps of a window by now.
        settled: whether they stay so many.
    """

    def __init__(self) -> None:
        self.steps = _SHORTEST
        self.settled = False
        self._seconds: list[float] = []
        self._before = math.inf

    def add_timing(self, steps: int, seconds: float) -> None:
        """Takes into account that a window of so many steps took so many seconds."""
        # The last windows of an epoch are shorter, and those of a young model.
        if self.settled or steps != self.steps:
            return
        self._seconds.append(seconds / steps)
        if len(self._seconds) < _WINDOWS:
            return
        # The median: a window may have waited for another program on its machine.
        now, self._seconds = statistics.median(self._seconds), []
        if now > _WORTH_IT * self._before:
            # The length before was as good, and less stale.
            self.steps //= _FACTOR
        elif self.steps < LONGEST:
            self._before = now
            self.steps *= _FACTOR
            return
        self.settled = True
        _LOG.info("GEO: windows of %d steps from here on", self.steps)


def of_few_lengths(steps: int, most: int) -> int:
    """A power of 4 of at most `steps`, or `most` itself: for windows that are traced for each length."""
    return most if steps >= most else 4 ** ((steps.bit_length() - 1) // 2)
