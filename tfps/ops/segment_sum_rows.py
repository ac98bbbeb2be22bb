"""Sums gradients by unique row: the backward pass of a copy of each row to every place that looked it up."""

from collections.abc import Sequence

import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops import library


def segment_sum_rows(gradients: Sequence[tf.Tensor], inverse: Sequence[tf.Tensor], num_rows: tf.Tensor) -> tf.Tensor:
    """Sums, for each row, the gradients of all places that looked it up.

    Args:
        gradients: a float32 tensor for each lookup, inverse.shape + [dim].
        inverse: the row of each place: an int32 tensor for each lookup, any shape, at least 0 and below `num_rows`.
        num_rows: the number of rows of the result, a scalar.

    Returns:
        float32, [num_rows, dim]; 0 for a row that no place looked up.

    Raises:
        ConfigError: there is no lookup, the lists differ in length, or dim is unknown.
        tf.errors.InvalidArgumentError: a row is not below `num_rows`.
    """
    if not gradients or len(gradients) != len(inverse):
        raise ConfigError(
            "`gradients` and `inverse` must have one element a lookup, at least one. "
            f"Received: {len(gradients)} and {len(inverse)}."
        )
    gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
    dim = gradients[0].shape[-1]
    if dim is None:
        raise ConfigError(f"`gradients` must have a known last dimension. Received: shape {gradients[0].shape}.")
    ops = library.load()
    if ops is None:
        return segment_sum_rows_graph(gradients, inverse, num_rows)
    rows = tf.cast(num_rows, tf.int64)
    return ops.tfps_segment_sum_rows(gradients=gradients, inverse=list(inverse), num_rows=rows, dim=int(dim))


def segment_sum_rows_graph(
    gradients: Sequence[tf.Tensor], inverse: Sequence[tf.Tensor], num_rows: tf.Tensor
) -> tf.Tensor:
    """Does the same with TensorFlow's own ops; see `segment_sum_rows`."""
    dim = gradients[0].shape[-1]
    values = tf.concat([tf.reshape(gradient, [-1, dim]) for gradient in gradients], axis=0)
    rows = tf.concat([tf.reshape(places, [-1]) for places in inverse], axis=0)
    # `unsorted_segment_sum` silently drops negative rows; the C++ op refuses them.
    in_range = tf.debugging.Assert(tf.reduce_all(rows >= 0), ["`inverse` must be at least 0. Received:", rows])
    with tf.control_dependencies([in_range]):
        return tf.math.unsorted_segment_sum(values, rows, num_rows)
