"""How far windows go from what the servers have (GEO): the size of their deltas, and rows that others moved as well."""

import dataclasses
import logging
import math
from collections.abc import Sequence

import tensorflow as tf

from tfps.training.mode import EpochTotals

DRIFT_LANES = 4
"""Float32 lanes of a measurement."""

_GROWN, _CONFLICTING = 1.5, 0.25
"""SkipGram that ran away moved twice as far a step, with 47 to 76 % of rows in conflict; where it learnt, 0.9 times."""

_LOG = logging.getLogger("tfps")


def measure_drift(deltas: Sequence[tuple[tf.Tensor, tf.Tensor | None]]) -> tf.Tensor:
    """Measures one window, float32 [DRIFT_LANES]: the first four fields of `Drift`.

    Args:
        deltas: for each table the rows' deltas as they are pushed, [m, dim], and by how much others have moved these
            rows since the window was pulled, or None where nobody looked.
    """
    # l2_loss is half the sum of squares, in one pass over the delta.
    squares = [2.0 * tf.nn.l2_loss(delta) for delta, _ in deltas]
    looked = [others for _, others in deltas if others is not None]
    moved = [tf.math.count_nonzero(tf.reduce_any(others != 0, 1), dtype=tf.float32) for others in looked]
    rows = [tf.cast(tf.shape(others)[0], tf.float32) for others in looked]
    return tf.stack([tf.add_n(parts) if parts else tf.zeros([]) for parts in (squares, moved, rows)] + [tf.ones([])])


@dataclasses.dataclass(frozen=True)
class Drift:
    """The drift of some windows; all fields add up.

    Args:
        squares: sum of the squares of all elements of the deltas that were pushed to rows.
        conflicts: rows that others had moved meanwhile.
        rows: rows at which they looked for that; none but with merge="cap" and more than one worker.
        windows: number of windows.
        steps: steps of all of them.
    """

    squares: float = 0.0
    conflicts: float = 0.0
    rows: float = 0.0
    windows: float = 0.0
    steps: float = 0.0

    @classmethod
    def of(cls, totals: EpochTotals) -> "Drift":
        """The drift of an epoch so far; its closures have measured what `measure_drift` computes."""
        # Before the first window of an epoch.
        if not totals.measured:
            return cls()
        squares, conflicts, rows, windows = totals.measured
        return cls(squares, conflicts, rows, windows, float(totals.steps))

    def logs(self) -> dict[str, float]:
        """For the logs of an epoch; nothing where there was no window.

        Returns:
            `geo_delta_norm`: the norm of what a window pushes to rows, the root of the mean of the squares;
            `geo_conflicts`: the fraction of its rows that others had moved meanwhile, where that was looked at.
        """
        if not self.windows:
            return {}
        logs = {"geo_delta_norm": math.sqrt(self.squares / self.windows)}
        return logs | ({"geo_conflicts": self.conflicting} if self.rows else {})

    @property
    def speed(self) -> float:
        """How far a window moves its rows for each of its steps."""
        return math.sqrt(self.squares * self.windows) / self.steps if self.steps else 0.0

    @property
    def conflicting(self) -> float:
        """The fraction of rows that others had moved meanwhile."""
        return self.conflicts / self.rows if self.rows else 0.0


class Runaway:
    """Warns of windows that drive each other apart: workers undo more and more of each other's steps.

    As long as windows work together, one of twice as many steps moves its rows at most twice as far. So a step that
    moves its rows farther than in the epoch before is a sign, and rows in conflict are another.
    """

    def __init__(self) -> None:
        self._before = 0.0
        self._said = False

    def compare(self, epoch: Drift) -> None:
        """Compares an epoch with the one before; says once in the log when it looks wrong."""
        before, self._before = self._before, epoch.speed
        # Only windows with merge="cap" look for conflicts; of the others the speed alone counts.
        looked = epoch.rows > 0
        if self._said or not before or epoch.speed < _GROWN * before or (looked and epoch.conflicting < _CONFLICTING):
            return
        # Once a model: each epoch that follows would say the same.
        self._said = True
        conflicts = "other workers had moved %.0f %% of them by the time it ended" % (100 * epoch.conflicting)
        _LOG.warning(
            "GEO: a step now moves the rows of its window %.1f times as far as in the epoch before%s. If the loss does "
            "not fall, windows run away from each other: lower `push_every`, now %.0f steps a window, the learning "
            "rate, or the number of workers.",
            epoch.speed / before,
            f", and {conflicts}" if looked else "",
            epoch.steps / epoch.windows,
        )
