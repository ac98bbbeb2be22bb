"""How windows begin (GEO): a young model is trained by one worker, in windows of one step.

What workers learn beside one another, unseen, is added up. In a young model all of it points the same way, and the sum
overshoots; with Adagrad it also lowers the rates for good. So workers and the steps of their windows grow with what the
model was trained for: with 2 workers both are at work after 32 steps, and have windows of 50 after 3,200; with 4 all
are at work after 96 steps, and have windows of 6 after 3,200.

Why more than two are held back more: a row that a window of w steps takes the fraction 1 - exp(-lw) of the way to where
it is pulled is taken N times as far by N of them. With two that is never more than twice the way, from where it comes
back. With more it runs away unless Nw, all that is under way, is below about 2/l, whatever N is.
"""

from tfps.training.geo.length import Length, of_few_lengths
from tfps.training.order import Order
from tfps.training.paced_schedules import IN_FLIGHT
from tfps.training.pacing import Pace, Pacing
from tfps.training.progress import Progress

UNSEEN = 32
"""Windows of two workers under way are, together, at most one step for so many that the model was trained for."""

UNSEEN_OF_MANY = 128
"""The same of more workers: SkipGram with 4 and 8 ran away with 32, on 5 million pairs of a small text."""

MOST_MISSED = 8
"""Windows that each other worker may end or begin while one is under way."""


def pace(trained: int, workers: int, most: int) -> Pace:
    """How many workers may be at work, and the steps of a window.

    Args:
        trained: steps that the model was trained for.
        workers: there are.
        most: steps of a window, whatever the model was trained for.
    """
    # Nobody is unseen by a single worker.
    if workers == 1:
        return Pace(1, most)
    unseen = trained // (UNSEEN if workers == 2 else UNSEEN_OF_MANY)
    return Pace(min(workers, 1 + trained // UNSEEN), max(1, min(most, unseen // workers)))


class WindowPacing(Pacing):
    """Windows of one epoch.

    Args:
        workers: there are.
        most: steps of a window, so that each worker has one.
        windows: windows of a closure; more than one where they overlap.
        fed: whether the chief feeds the batches. Then windows have few lengths, as a graph is traced for each.
        trained: steps that the model was trained for before this epoch.
        length: finds how long windows are to be, up to `most`; None where they have that many steps.
    """

    def __init__(self, workers: int, most: int, windows: int, fed: bool, trained: int, length: Length | None) -> None:
        super().__init__(windows)
        self._workers, self._most, self._fed, self._trained, self._length = workers, most, fed, trained, length

    def pace(self, done: int) -> Pace:
        """More workers and longer windows, the more steps the model was trained for."""
        most = self._most if self._length is None else min(self._most, self._length.steps)
        # What overlaps is unseen for twice as long.
        trained = (self._trained + done) // (1 if self.parts == 1 else 2)
        workers, steps = pace(trained, self._workers, most)
        return Pace(workers, of_few_lengths(steps, self._most) if self._fed else steps)

    def may_begin(self, shard: int, progress: Progress) -> bool:
        """Whether no window under way would miss too many of this shard's windows."""
        most = max(IN_FLIGHT, MOST_MISSED // self.parts)
        # How many closures of this shard a window under way of another would miss, if one more were begun.
        begun = progress.ended[shard] + progress.under_way[shard]
        return all(
            begun - before[shard] < most
            for other, before in enumerate(progress.ended_before)
            if other != shard and progress.under_way[other]
        )

    def fed_steps(self, pace: Pace, wanted: int) -> int:
        """All windows of a closure or one of them: a number in between would be traced as well."""
        # `wanted` is smaller where the budget has too few steps remaining for a closure of all its windows.
        whole = pace.steps * self.parts
        return whole if wanted == whole else pace.steps

    def fed_remainder(self, pace: Pace, remaining: int) -> int:
        """Windows of few lengths."""
        return of_few_lengths(min(remaining, pace.steps), self._most)

    def on_closure(self, order: Order, steps: int, seconds: float) -> None:
        """Lets the length of windows follow from what they cost."""
        if self._length is not None:
            windows = max(1, -(-steps // order.window))
            self._length.add_timing(steps // windows, seconds / windows)
