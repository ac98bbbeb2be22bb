"""Decides how long the closures of an epoch are, and how far ahead of each other the workers may run.

Threading: the training loop's thread.
"""

import abc
from collections.abc import Callable
from typing import NamedTuple

from tfps.training.order import Order
from tfps.training.progress import Progress

CLOSURES_AN_EPOCH = 8
"""The fewest closures of a worker in an epoch, so that workers exchange what they learn in a short epoch too."""


class Pace(NamedTuple):
    """The number of workers and steps that may begin now.

    Args:
        workers: the number of workers that may train at the same time.
        steps: the number of steps in one part of a closure.
    """

    workers: int
    steps: int


class Pacing(abc.ABC):
    """Decides how a `PacedSchedule` cuts one epoch into closures.

    Args:
        parts: the number of parts of a closure, each with its own exchange; more than one if exchanges overlap steps.
    """

    # The parts are fixed for an epoch because the graph over an iterator has a loop over them.
    def __init__(self, parts: int) -> None:
        self.parts = parts

    @abc.abstractmethod
    def pace(self, done: int) -> Pace:
        """Returns the pace after `done` steps of this epoch."""

    def is_whole(self, done: int) -> bool:
        """Returns whether the model has aged so far that its closures tell how fast later ones will be."""
        return True

    @abc.abstractmethod
    def row_uses(self, done: int) -> int:
        """Returns how often a worker may use a row that it keeps, after `done` steps of this epoch; 0 for never."""

    @abc.abstractmethod
    def may_begin(self, shard: int, progress: Progress) -> bool:
        """Returns whether a shard may begin one more closure, beside those that run."""

    @abc.abstractmethod
    def fed_steps(self, pace: Pace, wanted: int) -> int:
        """Returns the number of batches that the chief reads for the next closure, at most `wanted`.

        Args:
            pace: the current pace.
            wanted: the number of batches in a closure with all its parts.
        """

    @abc.abstractmethod
    def fed_remainder(self, pace: Pace, remaining: int) -> int:
        """Returns the number of fed batches in the next closure, where fewer than `fed_steps` remain.

        A graph is traced for each number of fed batches, so there must be few different numbers.
        """

    @abc.abstractmethod
    def on_closure(self, order: Order, steps: int, seconds: float) -> None:
        """Informs the pacing that a closure ran `steps` steps in `seconds` seconds."""


def closure_steps(batches: int | None, closures: int, most: int) -> int:
    """Returns the steps of a closure such that an epoch has at least `closures` closures.

    Example: 1,000 batches in 32 closures of at most 40 steps: ceil(1000 / 32) = 32 steps each.

    Args:
        batches: the number of batches in the epoch; None where it is unknown.
        closures: the wanted number of closures, over all workers.
        most: the most steps of a closure, for an epoch of any length.
    """
    # -(-a // b) rounds up, so the last closure is shorter and no step is left over.
    return min(most, -(-batches // closures)) if batches else most


class SteadyPacing(Pacing):
    """All workers train all the time, in closures of one length.

    Args:
        pace: the number of workers, and the steps in a part of a closure.
        parts: the number of parts of a closure.
        steps_of_fed: returns the steps of a closure over fed batches; the number is known once a step was traced.
    """

    def __init__(self, pace: Pace, parts: int, steps_of_fed: Callable[[], int]) -> None:
        super().__init__(parts)
        self._pace = pace
        self._steps_of_fed = steps_of_fed

    def pace(self, done: int) -> Pace:
        """Returns the same pace at all times."""
        return self._pace

    def row_uses(self, done: int) -> int:
        """Returns 0: the steps of these modes look up fresh rows."""
        return 0

    def may_begin(self, shard: int, progress: Progress) -> bool:
        """Returns True: a step that misses the steps of others does no harm in these modes."""
        return True

    def fed_steps(self, pace: Pace, wanted: int) -> int:
        """Returns the number of steps in a turn of the loop: the graph has a copy of the step for each."""
        # Computed at each call: it is 1 until the first closure is traced and its operations are counted.
        return min(pace.steps, self._steps_of_fed())

    def fed_remainder(self, pace: Pace, remaining: int) -> int:
        """Returns 1: the remaining batches are trained one by one."""
        # The graph of one step exists anyway, for `train_on_batch` and for the first closure.
        return 1

    def on_closure(self, order: Order, steps: int, seconds: float) -> None:
        """Ignores the timing: a steady pace does not depend on it."""
