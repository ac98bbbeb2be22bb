"""Sums gradients by unique row: the backward pass of a copy of each row to every place that looked it up.

`segment_sum_repeats` also sums the measures of the gradients, for optimizers that look at the gradient of each place.
"""

from collections.abc import Sequence

import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops import library
from tfps.ops.row_request import REPEATS
from tfps.ops.rules.declaration import Measure, measure_of


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
    gradients, dim = _check(gradients, inverse)
    ops = library.load()
    if ops is None:
        return segment_sum_rows_graph(gradients, inverse, num_rows)
    rows = tf.cast(num_rows, tf.int64)
    return ops.tfps_segment_sum_rows(gradients=gradients, inverse=list(inverse), num_rows=rows, dim=dim)


def segment_sum_repeats(
    gradients: Sequence[tf.Tensor], inverse: Sequence[tf.Tensor], num_rows: tf.Tensor, measure: Measure
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Sums gradients by row, and also their measures for each row that several places looked up.

    Example: the gradients a, b, c of the rows 1, 0, 1 have the sums [b, a + c] and the marks [0, 2**62]. If the measure
    is a square, the measures are [a * a + c * c].

    Args:
        gradients: as for `segment_sum_rows`.
        inverse: as for `segment_sum_rows`.
        num_rows: as for `segment_sum_rows`.
        measure: what is summed beside the gradients.

    Returns:
        (sums, marks, measures): the sums float32 [num_rows, dim]; int64 [num_rows], `REPEATS` for a row of several
        places and 0 for others; and the measures of these rows, float32 [rows that repeat, dim].

    Raises:
        ConfigError: as for `segment_sum_rows`.
        tf.errors.InvalidArgumentError: as for `segment_sum_rows`.
    """
    gradients, dim = _check(gradients, inverse)
    ops = library.load()
    if ops is None:
        return segment_sum_repeats_graph(gradients, inverse, num_rows, measure)
    rows = tf.cast(num_rows, tf.int64)
    summed = ops.tfps_segment_sum_repeats(
        gradients=gradients, inverse=list(inverse), num_rows=rows, dim=dim, measure=measure
    )
    return summed.sums, summed.marks, summed.measures


def _check(gradients: Sequence[tf.Tensor], inverse: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], int]:
    """Returns the gradients as tensors, and their width."""
    if not gradients or len(gradients) != len(inverse):
        raise ConfigError(
            "`gradients` and `inverse` must have one element a lookup, at least one. "
            f"Received: {len(gradients)} and {len(inverse)}."
        )
    gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
    dim = gradients[0].shape[-1]
    if dim is None:
        raise ConfigError(f"`gradients` must have a known last dimension. Received: shape {gradients[0].shape}.")
    return gradients, int(dim)


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


def segment_sum_repeats_graph(
    gradients: Sequence[tf.Tensor], inverse: Sequence[tf.Tensor], num_rows: tf.Tensor, measure: Measure
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Does the same with TensorFlow's own ops; see `segment_sum_repeats`."""
    sums = segment_sum_rows_graph(gradients, inverse, num_rows)
    measures = segment_sum_rows_graph([measure_of(measure, gradient) for gradient in gradients], inverse, num_rows)
    rows = tf.concat([tf.reshape(places, [-1]) for places in inverse], axis=0)
    repeats = tf.math.unsorted_segment_sum(tf.ones_like(rows), rows, num_rows) > 1
    return sums, tf.cast(repeats, tf.int64) * REPEATS, tf.boolean_mask(measures, repeats)
