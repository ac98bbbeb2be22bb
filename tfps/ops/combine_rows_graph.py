"""`combine_rows` and its gradients with TensorFlow's own ops; `combine_rows.py` documents arguments and results.

Each element of a weighted bag costs a copy of its row here, because TensorFlow has no op that multiplies while it sums.
"""

from typing import TYPE_CHECKING

import tensorflow as tf

if TYPE_CHECKING:
    from tfps.ops.combine_rows import Pooling


def combine(rows: tf.Tensor, places: tf.Tensor, pooling: "Pooling") -> tf.Tensor:
    """Combines the rows of each bag, [bags, dim]."""
    # Without weights the sparse ops sum directly, without a copy of each row.
    if pooling.weights is None:
        sums = {
            "sum": tf.sparse.segment_sum,
            "mean": tf.sparse.segment_mean,
            "sqrtn": tf.sparse.segment_sqrt_n,
        }
        return sums[pooling.combiner](rows, places, pooling.segments, num_segments=pooling.count)
    weighted = tf.gather(rows, places) * pooling.weights[:, tf.newaxis]
    # A bag with a divisor of 0 gives zeros, not NaN.
    return tf.math.divide_no_nan(_sum_bags(weighted, pooling), _divisors(pooling, rows.dtype)[:, tf.newaxis])


def rows_gradient(upstream: tf.Tensor, places: tf.Tensor, pooling: "Pooling", num_rows: tf.Tensor) -> tf.Tensor:
    """Computes the gradient for the rows, summed over the elements of each row, [num_rows, dim]."""
    values = element_gradients(upstream, pooling)
    # `unsorted_segment_sum` silently drops negative places; the C++ op refuses them.
    in_range = tf.debugging.Assert(tf.reduce_all(places >= 0), ["`places` must be at least 0. Received:", places])
    with tf.control_dependencies([in_range]):
        return tf.math.unsorted_segment_sum(values, places, num_rows)


def element_gradients(upstream: tf.Tensor, pooling: "Pooling") -> tf.Tensor:
    """Computes the gradient for the row of each element, [n, dim]."""
    weights = _weights(pooling, upstream.dtype)
    # The factor of each element's row in the result of its bag.
    factors = tf.math.divide_no_nan(weights, tf.gather(_divisors(pooling, upstream.dtype), pooling.segments))
    return tf.gather(upstream, pooling.segments) * factors[:, tf.newaxis]


def weights_gradient(upstream: tf.Tensor, rows: tf.Tensor, places: tf.Tensor, pooling: "Pooling") -> tf.Tensor:
    """Computes the gradient for the weights, [n]."""
    products = tf.reduce_sum(tf.gather(upstream, pooling.segments) * tf.gather(rows, places), axis=1)
    if pooling.combiner == "sum":
        return products
    # "mean" and "sqrtn" divide by d(w), a function of the weights, so the quotient rule applies. With p the products
    # and s = sum(w * p) of a bag, the gradient of a weight is (p - s / d) / d for "mean" and (p - w * s / d**2) / d for
    # "sqrtn".
    divisors = _divisors(pooling, rows.dtype)
    correction = tf.math.divide_no_nan(_sum_bags(pooling.weights * products, pooling), divisors)
    if pooling.combiner == "sqrtn":
        correction = tf.math.divide_no_nan(correction, divisors)
    correction = tf.gather(correction, pooling.segments)
    if pooling.combiner == "sqrtn":
        correction *= pooling.weights
    return tf.math.divide_no_nan(products - correction, tf.gather(divisors, pooling.segments))


def _weights(pooling: "Pooling", dtype: tf.DType) -> tf.Tensor:
    return tf.ones_like(pooling.segments, dtype) if pooling.weights is None else pooling.weights


def _divisors(pooling: "Pooling", dtype: tf.DType) -> tf.Tensor:
    """Computes the divisor of each bag, [bags]."""
    if pooling.combiner == "sum":
        return tf.ones([pooling.count], dtype)
    weights = _weights(pooling, dtype)
    return _sum_bags(weights, pooling) if pooling.combiner == "mean" else tf.sqrt(_sum_bags(weights * weights, pooling))


def _sum_bags(values: tf.Tensor, pooling: "Pooling") -> tf.Tensor:
    """Sums values, [n] or [n, dim], by bag. The op fails unless segments ascend and are below the count."""
    # The op takes only matrices.
    columns = values[:, tf.newaxis] if values.shape.rank == 1 else values
    elements = tf.range(tf.size(pooling.segments))
    sums = tf.sparse.segment_sum(columns, elements, pooling.segments, num_segments=pooling.count)
    return sums[:, 0] if values.shape.rank == 1 else sums
