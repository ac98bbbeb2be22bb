"""How long the closures of an epoch are, and how far ahead of each other the workers may run.

Threading: the training loop's thread.
"""

import abc
from collections.abc import Callable
from typing import NamedTuple

from tfps.training.order import Order
from tfps.training.progress import Progress

CLOSURES_AN_EPOCH = 8
"""Closures a worker's epoch is cut into at least, so that workers of a short one exchange what they learn."""


class Pace(NamedTuple):
    """What may be begun now.

    Args:
        workers: how many workers may train at a time.
        steps: steps in one part of a closure.
    """

    workers: int
    steps: int


class Pacing(abc.ABC):
    """Decides how a `PacedSchedule` cuts one epoch into closures.

    Args:
        parts: parts of a closure, each with an exchange of its own; more than one where they overlap.
    """

    # Parts are fixed for an epoch: the graph over an iterator has a loop over them.
    def __init__(self, parts: int) -> None:
        self.parts = parts

    @abc.abstractmethod
    def pace(self, done: int) -> Pace:
        """The pace after `done` steps of this epoch."""

    @abc.abstractmethod
    def may_begin(self, shard: int, progress: Progress) -> bool:
        """Whether a shard may begin one closure more, beside those that run."""

    @abc.abstractmethod
    def fed_steps(self, pace: Pace, asked: int) -> int:
        """Batches that the chief reads for the next closure, at most `asked`, the number for a closure of all parts."""

    @abc.abstractmethod
    def fed_rest(self, pace: Pace, left: int) -> int:
        """Batches of the next closure where only `left` are left, fewer than `fed_steps` asked for.

        A graph is traced for each number of fed batches, so these have to be few numbers.
        """

    @abc.abstractmethod
    def on_closure(self, order: Order, steps: int, seconds: float) -> None:
        """Takes into account that a closure made so many steps in so much time."""


def closure_steps(batches: int | None, closures: int, most: int) -> int:
    """Steps of a closure so that an epoch has at least as many closures as are wanted.

    Example: 1,000 batches in 32 closures of at most 40 steps: ceil(1000 / 32) = 32 steps each.

    Args:
        batches: of the epoch; None where nobody knows.
        closures: wanted closures of all workers together.
        most: steps of a closure, however long the epoch.
    """
    # -(-a // b) rounds up: the last closure is shorter, and no step is left over.
    return min(most, -(-batches // closures)) if batches else most


class SteadyPacing(Pacing):
    """All workers train all the time, in closures of one length.

    Args:
        pace: the workers there are, and the steps in a part of a closure.
        parts: parts of a closure.
        steps_of_fed: gives the steps of a closure over fed batches, which may change as steps are traced.
    """

    def __init__(self, pace: Pace, parts: int, steps_of_fed: Callable[[], int]) -> None:
        super().__init__(parts)
        self._pace = pace
        self._steps_of_fed = steps_of_fed

    def pace(self, done: int) -> Pace:
        """The same pace always."""
        return self._pace

    def may_begin(self, shard: int, progress: Progress) -> bool:
        """Always: a step that misses others' steps does no harm here."""
        return True

    def fed_steps(self, pace: Pace, asked: int) -> int:
        """As many as a turn of the loop has: the graph has a copy of the step for each."""
        # Asked each time: it is 1 until the first closure is traced, and its operations are counted.
        return min(pace.steps, self._steps_of_fed())

    def fed_rest(self, pace: Pace, left: int) -> int:
        """What is left is trained batch by batch."""
        # A graph of one step is traced anyway, for `train_on_batch` and for the first closure.
        return 1

    def on_closure(self, order: Order, steps: int, seconds: float) -> None:
        """Timings change nothing about a steady pace."""
