"""How rows that were looked up one by one become one a bag, where they come from no table."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def combine(rows: Any, weights: Any, combiner: str, add_up: Callable[[Any], Any]) -> Any:
    """One row a bag: the weighted sum of its rows, for "mean" over the sum of the weights, for "sqrtn" over their norm.

    Args:
        rows: float tensor, [..., dim].
        weights: float tensor, [...]; all are 1 where None.
        combiner: "mean", "sqrtn" or "sum".
        add_up: adds up what belongs to one bag, of the rows or of tensors [..., 1].

    Returns:
        What `add_up` gives for rows; 0 where the weights of a bag come to 0 and are divided by.
    """
    if weights is not None:
        weights = tf.cast(weights, rows.dtype)[..., tf.newaxis]
    summed = add_up(rows if weights is None else rows * weights)
    if combiner == "sum":
        return summed
    if weights is None:
        weights = tf.ones_like(rows[..., :1])
    divisor = add_up(weights) if combiner == "mean" else tf.sqrt(add_up(weights * weights))
    return tf.math.divide_no_nan(summed, divisor)
