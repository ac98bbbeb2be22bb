"""`combine_rows` and its gradients by TensorFlow's own ops; `combine_rows.py` documents arguments and results.

Here each element of a weighted bag costs a copy of its row, because TensorFlow has no op that multiplies as it sums.
"""

from typing import TYPE_CHECKING

import tensorflow as tf

if TYPE_CHECKING:
    from tfps.ops.combine_rows import Pooling


def combined(rows: tf.Tensor, places: tf.Tensor, pooling: "Pooling") -> tf.Tensor:
    """Combines the rows of each bag, [bags, dim]."""
    if pooling.weights is None:
        sums = {
            "sum": tf.sparse.segment_sum,
            "mean": tf.sparse.segment_mean,
            "sqrtn": tf.sparse.segment_sqrt_n,
        }
        return sums[pooling.combiner](rows, places, pooling.segments, num_segments=pooling.count)
    weighted = tf.gather(rows, places) * pooling.weights[:, tf.newaxis]
    return tf.math.divide_no_nan(_added(weighted, pooling), _divisors(pooling, rows.dtype)[:, tf.newaxis])


def rows_gradient(upstream: tf.Tensor, places: tf.Tensor, pooling: "Pooling", num_rows: tf.Tensor) -> tf.Tensor:
    """Computes the gradient for the rows, summed over the elements of each row, [num_rows, dim]."""
    weights = _weights(pooling, upstream.dtype)
    shares = tf.math.divide_no_nan(weights, tf.gather(_divisors(pooling, upstream.dtype), pooling.segments))
    values = tf.gather(upstream, pooling.segments) * shares[:, tf.newaxis]
    in_range = tf.debugging.Assert(tf.reduce_all(places >= 0), ["`places` must be at least 0. Received:", places])
    with tf.control_dependencies([in_range]):
        return tf.math.unsorted_segment_sum(values, places, num_rows)


def weights_gradient(upstream: tf.Tensor, rows: tf.Tensor, places: tf.Tensor, pooling: "Pooling") -> tf.Tensor:
    """Computes the gradient for the weights, [n]."""
    products = tf.reduce_sum(tf.gather(upstream, pooling.segments) * tf.gather(rows, places), axis=1)
    if pooling.combiner == "sum":
        return products
    # "mean" and "sqrtn" divide by a function of the weights, whose derivative is the part taken off here.
    divisors = _divisors(pooling, rows.dtype)
    taken = tf.math.divide_no_nan(_added(pooling.weights * products, pooling), divisors)
    if pooling.combiner == "sqrtn":
        taken = tf.math.divide_no_nan(taken, divisors)
    taken = tf.gather(taken, pooling.segments)
    if pooling.combiner == "sqrtn":
        taken *= pooling.weights
    return tf.math.divide_no_nan(products - taken, tf.gather(divisors, pooling.segments))


def _weights(pooling: "Pooling", dtype: tf.DType) -> tf.Tensor:
    return tf.ones_like(pooling.segments, dtype) if pooling.weights is None else pooling.weights


def _divisors(pooling: "Pooling", dtype: tf.DType) -> tf.Tensor:
    """Computes the divisor of each bag, [bags]."""
    if pooling.combiner == "sum":
        return tf.ones([pooling.count], dtype)
    weights = _weights(pooling, dtype)
    return _added(weights, pooling) if pooling.combiner == "mean" else tf.sqrt(_added(weights * weights, pooling))


def _added(values: tf.Tensor, pooling: "Pooling") -> tf.Tensor:
    """Sums values, [n] or [n, dim], by bag. The op fails unless segments ascend and are below the count."""
    columns = values[:, tf.newaxis] if values.shape.rank == 1 else values
    elements = tf.range(tf.size(pooling.segments))
    sums = tf.sparse.segment_sum(columns, elements, pooling.segments, num_segments=pooling.count)
    return sums[:, 0] if values.shape.rank == 1 else sums
