"""How the values that the workers of one step assign to a variable become one value.

Means and sums are made of deltas that each worker has multiplied by its examples, as its gradients are. A product would
round ids and greatest values, so these cross with all their bits.
"""

import enum
import functools
from collections.abc import Sequence

import tensorflow as tf

from tfps.training.affine import Extreme
from tfps.training.exchange import extreme


class Merge(enum.Enum):
    """How the values that the workers of one step assign to a variable become one value."""

    MEAN = "mean"
    """Adds the mean of the workers' deltas, weighted by their examples."""
    CHANGED = "changed"
    """The same, but each element has the mean of the workers that changed it."""
    SUM = "sum"
    """Adds the sum of the workers' deltas."""
    FIRST = "first"
    """Adds the delta of the first worker of the step, because integers such as ids have no mean."""
    FIRST_CHANGED = "first changed"
    """The same, but each element has the delta of the first worker that changed it."""
    GREATEST = "greatest"
    LEAST = "least"

    @property
    def is_exact(self) -> bool:
        """Whether what workers send crosses with all its bits, and not times the examples of the worker."""
        return self in (Merge.FIRST, Merge.FIRST_CHANGED, Merge.GREATEST, Merge.LEAST)


EXTREMES = {Merge.GREATEST: Extreme.GREATEST, Merge.LEAST: Extreme.LEAST}
"""The merges of variables whose values workers send, and not their deltas."""


def merge_weighted(
    merge: Merge, examples: Sequence[tf.Tensor], deltas: Sequence[tf.Tensor], mean: tf.Tensor
) -> tf.Tensor:
    """Merges deltas that were multiplied by examples, in the shape of `mean`.

    Args:
        merge: how to merge; not exact.
        examples: for each worker the number of its examples, a float32 scalar; 0 for one that is no part of the step.
        deltas: for each worker its delta times that number, a float32 vector.
        mean: the mean of the deltas, in the shape of the variable.
    """
    if merge is Merge.MEAN:
        return mean
    if merge is Merge.SUM:
        merged = tf.add_n([tf.math.divide_no_nan(part, count) for count, part in zip(examples, deltas, strict=True)])
    else:
        changed = [count * tf.cast(part != 0.0, tf.float32) for count, part in zip(examples, deltas, strict=True)]
        merged = tf.math.divide_no_nan(tf.add_n(deltas), tf.add_n(changed))
    return tf.reshape(merged, mean.shape)


def merge_exact(merge: Merge, examples: Sequence[tf.Tensor], values: Sequence[tf.Tensor]) -> tf.Tensor:
    """Merges values or deltas that crossed with all their bits.

    Args:
        merge: how to merge.
        examples: as for `merge_weighted`.
        values: for each worker its value for one of `EXTREMES`, and otherwise its delta; in the type of the variable.
    """
    takes_part = [count > 0.0 for count in examples]
    if merge in EXTREMES:
        none = _neutral(EXTREMES[merge], values[0].dtype)
        present = [tf.where(is_there, value, none) for is_there, value in zip(takes_part, values, strict=True)]
        return functools.reduce(functools.partial(extreme, EXTREMES[merge]), present)
    found = tf.zeros_like(values[0])
    for is_there, delta in reversed(list(zip(takes_part, values, strict=True))):
        chosen = is_there & (delta != 0) if merge is Merge.FIRST_CHANGED else is_there
        found = tf.where(chosen, delta, found)
    return found


def _neutral(kind: Extreme, dtype: tf.DType) -> tf.Tensor:
    """Returns the value that no other is beyond, for a worker that has none."""
    least = kind is Extreme.LEAST
    if dtype == tf.bool:
        return tf.constant(least)
    return tf.constant(dtype.max if least else dtype.min, dtype)
