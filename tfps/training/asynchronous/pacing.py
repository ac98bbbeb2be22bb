"""The pace of asynchronous training: a young model is trained by one worker, and then by more in longer closures.

Workers do not see the steps that others have under way. In a young model all updates point in the same direction, so
the sum of several overshoots, and a model of a few hundred steps has no time to recover. A recurrent model may stay
on a plateau for long, where a step that is missed costs as much as a step that is not made. Once a model has moved for
a while, its updates point in many directions, and missing a few of them costs little.

So one worker alone trains the first `ALONE` steps, over the whole input in the order of one process: a job that is not
longer gives what one process gives. After that, the steps under way at one time, of all workers, are at most one for
every `UNSEEN` steps that the model was trained for. Up to nine workers train from step 512 on. Two workers then have
closures of 4 steps, and of 16 from step 2,048 on; four workers have closures of 2 steps, and of 8 from step 2,048 on.

Some steps have more weight. With a momentum of 0.9 a step that nobody has seen moves the weights for ten steps and
overshoots ten times as far, so there it is one for every ten times as many. A recurrent layer applies its weights at
each step of a sequence, and diverges where other layers do not. docs/convergence.md has the figures behind all this.
"""

from collections.abc import Callable

from tfps.training.pacing import Pace, SteadyPacing

ALONE = 512
"""The number of steps that one worker trains before others join."""

UNSEEN = 64
"""All workers together have at most one step under way for this many steps of earlier training."""

MOST_ALONE = 16
"""The most steps of a closure while one worker reads the whole input. Others join when its closures have ended."""

MOST_BEFORE_JOINING = 4
"""The same if others may join while the closure runs: as many steps as a turn of the loop has."""


def steps_for_each(weight: float, parts: int) -> int:
    """Returns the number of trained steps for each step that may be under way.

    Args:
        weight: the weight of a step that others have not seen: 1, and more for sensitive models.
        parts: the number of parts of a closure. With several, others see a step twice as late.
    """
    return round(UNSEEN * weight) * (1 if parts == 1 else 2)


def young_pace(trained: int, workers: int, most: int, for_each: int) -> Pace:
    """Returns the number of workers that may train, and the steps of a closure.

    Args:
        trained: the number of steps that the model was trained for.
        workers: the number of workers.
        most: the most steps of a closure, however long the model was trained.
        for_each: the number of trained steps for each step that may be under way.
    """
    # A single worker sees all updates.
    if workers == 1:
        return Pace(1, most)
    under_way = trained // for_each
    # One worker alone misses nothing, but those that join it miss what it has under way.
    if trained < ALONE or not under_way:
        return Pace(1, min(most, MOST_BEFORE_JOINING))
    return Pace(min(workers, 1 + under_way), max(1, min(most, under_way // workers)))


def begins_alone(trained: int, workers: int, weight: float, parts: int) -> bool:
    """Returns whether one worker would train a model alone.

    Args:
        trained: the number of steps that the model was trained for.
        workers: the number of workers.
        weight: the weight of a step that others have not seen.
        parts: the number of parts of a closure.
    """
    return young_pace(trained, workers, 1, steps_for_each(weight, parts)).workers == 1


class YoungPacing(SteadyPacing):
    """The pacing of one epoch: as a steady one once the model was trained for long enough.

    Args:
        whole: the pace of a model that was trained for long.
        parts: the number of parts of a closure, each with its own exchange.
        steps_of_fed: returns the steps of a closure over fed batches; the number is known once a step was traced.
        trained: the number of steps that the model was trained for before this epoch.
        weight: the weight of a step that others have not seen, at least 1.
        alone: the steps of a closure while one worker reads the whole input; None if it reads a part of it.
    """

    def __init__(
        self,
        whole: Pace,
        parts: int,
        steps_of_fed: Callable[[], int],
        trained: int,
        weight: float = 1.0,
        alone: int | None = None,
    ) -> None:
        super().__init__(whole, parts, steps_of_fed)
        self._trained, self._for_each, self._alone = trained, steps_for_each(weight, parts), alone

    @property
    def all_train_from(self) -> int:
        """The number of trained steps from which on all workers train; 0 for one worker."""
        others = self._pace.workers - 1
        return max(ALONE, self._for_each * others) if others else 0

    def pace(self, done: int) -> Pace:
        """Returns more workers and longer closures, the more steps the model was trained for."""
        pace = young_pace(self._trained + done, *self._pace, self._for_each)
        return pace if self._alone is None or pace.workers > 1 else Pace(1, self._alone)

    def row_uses(self, done: int) -> int:
        """Returns 0 for a young model, and more the more steps it was trained for.

        A step that uses a row again misses its update of the last use, and every worker does so. These steps count as
        under way, beside those of the closures. Example: four workers with closures of 8 steps have 32 steps under way,
        which a model of 2,048 steps may miss. From step 3,072 on it may miss 16 more, so each row is used 4 times.
        """
        pace = self.pace(done)
        # One worker alone misses no steps of others.
        under_way = pace.workers * pace.steps if pace.workers > 1 else 0
        return max(0, (self._trained + done) // self._for_each - under_way) // pace.workers

    def is_whole(self, done: int) -> bool:
        """Returns whether all workers train, in closures of full length."""
        return self.pace(done) == self._pace

    def fed_steps(self, pace: Pace, wanted: int) -> int:
        """Returns the number of steps in a turn of the loop, or 1: a graph is traced for each number."""
        whole = super().fed_steps(self._pace, wanted)
        return whole if pace.steps >= whole else 1
