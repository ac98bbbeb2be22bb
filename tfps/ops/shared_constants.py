"""Constants that all operations of a graph share.

TensorFlow makes a new operation for each Python number that an operation gets. In a model with hundreds of lookups
these are half of all operations, and making them takes a third of the time of a trace.
"""

import numpy as np
import tensorflow as tf

_ATTRIBUTE = "_tfps_constants"
"""The attribute of a graph with its constants. The graph owns them, so they end with it."""


def shared_constant(value: int | tuple[int, ...], dtype: tf.DType) -> tf.Tensor:
    """Returns a constant; the same tensor for the same value within one graph. Eager code gets a new one.

    A value that is too large for the dtype wraps around, as in a cast.

    Args:
        value: a number, or numbers for a vector.
        dtype: an integer dtype.
    """
    array = np.asarray(value, np.int64).astype(dtype.as_numpy_dtype)
    if tf.executing_eagerly():
        return tf.constant(array)
    graph = tf.compat.v1.get_default_graph()
    if not hasattr(graph, _ATTRIBUTE):
        setattr(graph, _ATTRIBUTE, {})
    constants = getattr(graph, _ATTRIBUTE)
    key = value, dtype
    if key not in constants:
        # Not where the first of its users is placed, and after nothing that the first has to wait for.
        with tf.device(None), tf.control_dependencies(None):
            constants[key] = tf.constant(array)
    found: tf.Tensor = constants[key]
    return found


def gather_rows_at(rows: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """Returns `tf.gather(rows, places)`, with an axis that all such operations of a graph share."""
    return tf.raw_ops.GatherV2(params=rows, indices=places, axis=shared_constant(0, tf.int32))
