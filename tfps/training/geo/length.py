"""The length of GEO windows where the user did not set it: found by timing windows."""

import logging
import math
import statistics

LONGEST = 1024
"""The most steps of a window whose length is found by timing: a worker's memory grows with them."""
_SHORTEST, _FACTOR = 4, 4
"""The steps of the first windows, and the factor by which the next ones are longer."""
_WINDOWS = 5
"""The number of windows of one length that are timed."""
_WORTH_IT = 0.9
"""A longer window is worth it if its steps take at most this part of the time they took in shorter windows."""
_LOG = logging.getLogger("tfps")


class Length:
    """Finds the length of windows: makes them four times as long while that makes a step at least a tenth faster.

    The cost of an exchange is spread over the steps of its window, so steps get cheaper as windows get longer, until
    only the cost that grows with the window remains. Even longer windows would add staleness and gain nothing.

    Example: an exchange takes 10 ms and a step 1 ms. A step takes 3.5 ms in windows of 4 steps, 1.6 in 16, 1.16 in 64,
    1.04 in 256 and 1.01 in 1,024. The last gain is below a tenth, so windows get 256 steps.

    Attributes:
        steps: the current number of steps in a window.
        settled: whether this number is final.
    """

    def __init__(self) -> None:
        self.steps = _SHORTEST
        self.settled = False
        self._seconds: list[float] = []
        self._before = math.inf

    def add_timing(self, steps: int, seconds: float) -> None:
        """Adds the time that a window of `steps` steps took."""
        # Windows at the end of an epoch and for a young model are shorter, and say nothing about this length.
        if self.settled or steps != self.steps:
            return
        self._seconds.append(seconds / steps)
        if len(self._seconds) < _WINDOWS:
            return
        # The median ignores a window that waited for another program on its machine.
        now, self._seconds = statistics.median(self._seconds), []
        if now > _WORTH_IT * self._before:
            # The previous length was as fast, and less stale.
            self.steps //= _FACTOR
        elif self.steps < LONGEST:
            self._before = now
            self.steps *= _FACTOR
            return
        self.settled = True
        _LOG.info("GEO: windows have %d steps from now on", self.steps)


def round_to_few_lengths(steps: int, most: int) -> int:
    """Returns the largest power of 4 up to `steps`, or `most` itself: for windows that are traced for each length."""
    # Example: with most = 50 the lengths are 1, 4, 16 and 50.
    return most if steps >= most else 4 ** ((steps.bit_length() - 1) // 2)
