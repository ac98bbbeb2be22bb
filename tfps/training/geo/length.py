"""How long windows are (GEO), where nobody said: as long as pays, found by timing them."""

import logging
import math
import statistics

LONGEST = 1024
"""Steps of a window at most where nobody said how many: a worker's memory grows with them."""
_SHORTEST, _FACTOR = 4, 4
_WINDOWS = 5
"""Windows of one length that are timed."""
_WORTH_IT = 0.9
_LOG = logging.getLogger("tfps")


class Length:
    """Finds how long windows are to be: four times as long, again and again, while that makes a step a tenth cheaper.

    What an exchange costs a window is shared by its steps, so a step gets cheaper until only what grows with the window
    is left; longer windows would be staler for nothing.

    Attributes:
        steps: of a window by now.
        settled: whether it stays.
    """

    def __init__(self) -> None:
        self.steps = _SHORTEST
        self.settled = False
        self._seconds: list[float] = []
        self._before = math.inf

    def ran(self, steps: int, seconds: float) -> None:
        """A window of so many steps took so many seconds."""
        if self.settled or steps != self.steps:
            return
        self._seconds.append(seconds / steps)
        if len(self._seconds) < _WINDOWS:
            return
        now, self._seconds = statistics.median(self._seconds), []
        if now > _WORTH_IT * self._before:
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
