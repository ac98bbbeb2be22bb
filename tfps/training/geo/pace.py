"""How windows begin (GEO): a young model is trained by one worker, in windows of one step.

What workers learn beside one another, unseen, is added up. In a young model all of it points the same way, and the sum
overshoots; with Adagrad it also lowers the rates for good. So workers and the steps of their windows grow with what the
model was trained for: with 2 workers both are at work after 32 steps, and have windows of 50 after 3,200; with 4 all
are at work after 96 steps, and have windows of 6 after 3,200.

Why more than two are held back more: a row that a window of w steps takes the share 1 - exp(-lw) of the way to where
it is pulled is taken N times as far by N of them. With two that is never more than twice the way, from where it comes
back. With more it runs away unless Nw, all that is under way, is below about 2/l, whatever N is.
"""

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

UNSEEN = 32
"""Windows of two workers under way are, together, at most one step for so many that the model was trained for."""

UNSEEN_OF_MANY = 128
"""The same of more workers: SkipGram with 4 and 8 ran away with 32, on 5 million pairs of a small text."""


def pace(trained: int, workers: int, most: int) -> tuple[int, int]:
    """How many workers may be at work, and the steps of a window.

    Args:
        trained: steps that the model was trained for.
        workers: there are.
        most: steps of a window, whatever the model was trained for.
    """
    if workers == 1:
        return 1, most
    unseen = trained // (UNSEEN if workers == 2 else UNSEEN_OF_MANY)
    return min(workers, 1 + trained // UNSEEN), max(1, min(most, unseen // workers))


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
