"""The pace of GEO windows: a young model is trained by one worker, in windows of one step.

Workers that do not see each other's updates have them added up. In a young model all updates point in the same
direction, so their sum overshoots, and with Adagrad it also lowers the learning rates for good. So the number of
workers and the length of windows grow with the steps that the model was trained for. Two workers both train after 32
steps, and have windows of 50 steps after 3,200. Four workers all train after 96 steps, and have windows of 6 steps
after 3,200.

More than two workers are held back more, for this reason. A window of w steps moves a row the fraction 1 - exp(-lw) of
the way to its optimum; N workers together move it N times as far. With two workers that is at most twice the way, from
which the row comes back. With more it diverges unless Nw, all steps under way, is below about 2/l, for any N.
"""

from tfps.training.geo.length import Length, round_to_few_lengths
from tfps.training.order import Order
from tfps.training.paced_schedules import IN_FLIGHT
from tfps.training.pacing import Pace, Pacing
from tfps.training.progress import Progress

UNSEEN = 32
"""With two workers, the windows under way have together at most one step for this many steps of earlier training."""

UNSEEN_OF_MANY = 128
"""The same for more workers: with 32, SkipGram with 4 and 8 workers ran away on 5 million pairs of a small text."""

MOST_MISSED = 8
"""The most windows that each other worker may end or begin while one window is under way."""


def pace(trained: int, workers: int, most: int) -> Pace:
    """Returns the number of workers that may train, and the steps of a window.

    Args:
        trained: the number of steps that the model was trained for.
        workers: the number of workers.
        most: the most steps of a window, however long the model was trained.
    """
    # A single worker sees all updates.
    if workers == 1:
        return Pace(1, most)
    unseen = trained // (UNSEEN if workers == 2 else UNSEEN_OF_MANY)
    return Pace(min(workers, 1 + trained // UNSEEN), max(1, min(most, unseen // workers)))


class WindowPacing(Pacing):
    """The pacing of one epoch of windows.

    Args:
        workers: the number of workers.
        most: the most steps of a window, such that each worker gets one.
        windows: the number of windows in a closure; more than one where they overlap.
        fed: whether the chief feeds the batches. If so, windows have few lengths, as a graph is traced for each.
        trained: the number of steps that the model was trained for before this epoch.
        length: finds the length of windows, up to `most`; None if it is `most`.
    """

    def __init__(self, workers: int, most: int, windows: int, fed: bool, trained: int, length: Length | None) -> None:
        super().__init__(windows)
        self._workers, self._most, self._fed, self._trained, self._length = workers, most, fed, trained, length

    def pace(self, done: int) -> Pace:
        """Returns more workers and longer windows, the more steps the model was trained for."""
        most = self._most if self._length is None else min(self._most, self._length.steps)
        # With overlap, others do not see a window for twice as long.
        trained = (self._trained + done) // (1 if self.parts == 1 else 2)
        workers, steps = pace(trained, self._workers, most)
        return Pace(workers, round_to_few_lengths(steps, self._most) if self._fed else steps)

    def row_uses(self, done: int) -> int:
        """Returns 0: a window has rows of its own."""
        return 0

    def may_begin(self, shard: int, progress: Progress) -> bool:
        """Returns whether no window under way would miss too many windows of this shard."""
        most = max(IN_FLIGHT, MOST_MISSED // self.parts)
        # `begun - before` is how many closures of this shard a window under way would miss if one more began.
        begun = progress.ended[shard] + progress.under_way[shard]
        return all(
            begun - before[shard] < most
            for other, before in enumerate(progress.ended_before)
            if other != shard and progress.under_way[other]
        )

    def fed_steps(self, pace: Pace, wanted: int) -> int:
        """Returns the batches of all windows of a closure, or of one: any number in between would be traced as well."""
        # `wanted` is smaller if the budget has too few steps left for all windows of a closure.
        whole = pace.steps * self.parts
        return whole if wanted == whole else pace.steps

    def fed_remainder(self, pace: Pace, remaining: int) -> int:
        """Returns the length of the next short window, one of a few lengths."""
        return round_to_few_lengths(min(remaining, pace.steps), self._most)

    def on_closure(self, order: Order, steps: int, seconds: float) -> None:
        """Adds the timing to the search for the best window length."""
        if self._length is not None:
            windows = max(1, -(-steps // order.window))
            self._length.add_timing(steps // windows, seconds / windows)
