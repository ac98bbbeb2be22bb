"""Pools rows that do not come from a table: they were looked up one by one, and become one a bag."""

from collections.abc import Callable

import tensorflow as tf


def combine(
    rows: tf.Tensor, weights: tf.Tensor | None, combiner: str, add_up: Callable[[tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """One row a bag: the weighted sum of its rows, for "mean" over the sum of the weights, for "sqrtn" over their norm.

    Args:
        rows: float tensor, [..., dim].
        weights: float tensor, [...]; all are 1 where None.
        combiner: "mean", "sqrtn" or "sum".
        add_up: sums over the ids of each bag; takes rows, and tensors [..., 1].

    Returns:
        The pooled rows, of the shape that `add_up` gives; 0 where the divisor of a bag is 0.
    """
    if weights is not None:
        weights = tf.cast(weights, rows.dtype)[..., tf.newaxis]
    summed = add_up(rows if weights is None else rows * weights)
    if combiner == "sum":
        return summed
    if weights is None:
        weights = tf.ones_like(rows[..., :1])
    divisor = add_up(weights) if combiner == "mean" else tf.sqrt(add_up(weights * weights))
    # A bag without ids has a divisor of 0, and a pooled row of zeros.
    return tf.math.divide_no_nan(summed, divisor)
