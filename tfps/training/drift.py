"""How far windows go from what the servers hold (GEO): the size of their deltas, and rows that others moved as well."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

DRIFT_LANES = 4
"""Float32 lanes of a measurement."""


def measured(deltas: Sequence[tuple[Any, Any]]) -> Any:
    """What one window has moved, float32 [DRIFT_LANES]; see `Drift.read`.

    Args:
        deltas: for each table the rows' deltas as they are pushed, [m, dim], and by how much others have moved these
            rows since the window was pulled, or None where nobody looked.
    """
    squares = [2.0 * tf.nn.l2_loss(delta) for delta, _ in deltas]  # in one pass, unlike a sum of squares
    looked = [others for _, others in deltas if others is not None]
    moved = [tf.math.count_nonzero(tf.reduce_any(others != 0, 1), dtype=tf.float32) for others in looked]
    rows = [tf.cast(tf.shape(others)[0], tf.float32) for others in looked]
    return tf.stack([tf.add_n(parts) if parts else tf.zeros([]) for parts in (squares, moved, rows)] + [tf.ones([])])


@dataclasses.dataclass(frozen=True)
class Drift:
    """What some windows have moved.

    Args:
        squares: sum of the squares of all that they pushed to rows.
        conflicts: rows that others had moved meanwhile.
        rows: rows at which they looked for that; none but with merge="cap" and more than one worker.
        windows: how many they were.
    """

    squares: float = 0.0
    conflicts: float = 0.0
    rows: float = 0.0
    windows: float = 0.0

    @classmethod
    def read(cls, values: Any) -> "Drift":
        """Of one window, from the value of `measured`."""
        return cls(*(float(value) for value in values))

    def after(self, other: "Drift") -> "Drift":
        """These windows and others."""
        return Drift(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def logs(self) -> dict[str, float]:
        """For the logs of an epoch; nothing where there was no window.

        Returns:
            `geo_delta_norm`: the norm of what a window pushes to rows, the root of the mean of the squares;
            `geo_conflicts`: the share of its rows that others had moved meanwhile, where that was looked at.
        """
        if not self.windows:
            return {}
        logs = {"geo_delta_norm": math.sqrt(self.squares / self.windows)}
        return logs | ({"geo_conflicts": self.conflicts / self.rows} if self.rows else {})
