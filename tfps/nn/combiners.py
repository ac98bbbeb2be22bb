"""Pools rows that do not come from a table, for example rows that a layer has looked up one by one."""

from collections.abc import Callable

import tensorflow as tf


def combine(
    rows: tf.Tensor, weights: tf.Tensor | None, combiner: str, add_up: Callable[[tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """Combines the rows of each bag into one row.

    "sum" is the weighted sum of the rows, "mean" divides it by the sum of the weights, and "sqrtn" divides it by the
    l2 norm of the weights.

    Args:
        rows: the rows, float [..., dim].
        weights: the weight of each row, float [...]; None if all weights are 1.
        combiner: "mean", "sqrtn" or "sum".
        add_up: a function that sums over the ids of each bag; it takes `rows`, and tensors of shape [..., 1].

    Returns:
        The pooled rows, in the shape that `add_up` returns; 0 where the divisor of a bag is 0.
    """
    # Under a mixed precision policy rows are float16, and weights may come as float32.
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
