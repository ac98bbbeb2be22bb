"""The drift of GEO windows from the servers' values: the size of deltas, and rows that other workers moved as well."""

import dataclasses
import logging
import math
from collections.abc import Sequence

import tensorflow as tf

from tfps.training.mode import EpochTotals

DRIFT_LANES = 4
"""The number of float32 values in a measurement."""

_GROWN, _CONFLICTING = 1.5, 0.25
"""A SkipGram that ran away moved rows twice as far a step, with 47 to 76 % in conflict; one that learnt, 0.9 times."""

_LOG = logging.getLogger("tfps")


def measure_drift(deltas: Sequence[tuple[tf.Tensor, tf.Tensor | None]]) -> tf.Tensor:
    """Measures one window, float32 [DRIFT_LANES]: the first four fields of `Drift`.

    Args:
        deltas: a pair for each table: the deltas of its rows as they are pushed, [m, dim], and the change that others
            made to these rows since the window was pulled, or None if that was not read.
    """
    # l2_loss is half the sum of squares, in one pass over the delta.
    squares = [2.0 * tf.nn.l2_loss(delta) for delta, _ in deltas]
    all_others = [others for _, others in deltas if others is not None]
    moved = [tf.math.count_nonzero(tf.reduce_any(others != 0, 1), dtype=tf.float32) for others in all_others]
    rows = [tf.cast(tf.shape(others)[0], tf.float32) for others in all_others]
    # The closing 1 is the number of windows.
    return tf.stack([tf.add_n(parts) if parts else tf.zeros([]) for parts in (squares, moved, rows)] + [tf.ones([])])


@dataclasses.dataclass(frozen=True)
class Drift:
    """The drift of some windows; fields of several windows add up.

    Args:
        squares: the sum of the squares of all elements of the deltas pushed to rows.
        conflicts: the number of rows that other workers had moved meanwhile.
        rows: the number of rows that were checked for conflicts; 0 except with merge="cap" and more than one worker.
        windows: the number of windows.
        steps: the number of steps in all of them.
    """

    squares: float = 0.0
    conflicts: float = 0.0
    rows: float = 0.0
    windows: float = 0.0
    steps: float = 0.0

    @classmethod
    def from_totals(cls, totals: EpochTotals) -> "Drift":
        """Returns the drift of an epoch so far, from the values that `measure_drift` gave for its closures."""
        # No window of the epoch has ended yet.
        if not totals.measured:
            return cls()
        squares, conflicts, rows, windows = totals.measured
        return cls(squares, conflicts, rows, windows, float(totals.steps))

    def logs(self) -> dict[str, float]:
        """Returns entries for the logs of an epoch; none if there was no window.

        Returns:
            `geo_delta_norm`: the norm of the delta that a window pushes to rows, as a root mean square over windows.
            `geo_conflicts`: the fraction of its rows that other workers had moved meanwhile, if they were checked.
        """
        if not self.windows:
            return {}
        logs = {"geo_delta_norm": math.sqrt(self.squares / self.windows)}
        return logs | ({"geo_conflicts": self.conflict_fraction} if self.rows else {})

    @property
    def speed(self) -> float:
        """How far a window moves its rows in each of its steps."""
        return math.sqrt(self.squares * self.windows) / self.steps if self.steps else 0.0

    @property
    def conflict_fraction(self) -> float:
        """The fraction of rows that other workers had moved meanwhile."""
        return self.conflicts / self.rows if self.rows else 0.0


class Runaway:
    """Warns when windows drive each other apart: workers undo more and more of each other's steps.

    While windows work together, a window of twice as many steps moves its rows at most twice as far. So if a step moves
    its rows farther than in the epoch before, that is a sign of divergence, and conflicting rows are another.
    """

    def __init__(self) -> None:
        self._before = 0.0
        self._has_warned = False

    def compare(self, epoch: Drift) -> None:
        """Compares an epoch with the one before, and warns once in the log if the windows diverge."""
        before, self._before = self._before, epoch.speed
        # Only windows with merge="cap" are checked for conflicts; for all others the speed alone counts.
        is_checked = epoch.rows > 0
        if (
            self._has_warned
            or not before
            or epoch.speed < _GROWN * before
            or (is_checked and epoch.conflict_fraction < _CONFLICTING)
        ):
            return
        # Once a model, because every later epoch would repeat the warning.
        self._has_warned = True
        conflicts = "other workers had moved %.0f %% of them by the time it ended" % (100 * epoch.conflict_fraction)
        _LOG.warning(
            "GEO: a step now moves the rows of its window %.1f times as far as in the epoch before%s. If the loss does "
            "not fall, windows run away from each other: lower `push_every`, now %.0f steps a window, the learning "
            "rate, or the number of workers.",
            epoch.speed / before,
            f", and {conflicts}" if is_checked else "",
            epoch.steps / epoch.windows,
        )
