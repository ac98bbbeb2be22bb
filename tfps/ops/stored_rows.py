"""Rows that are stored as bfloat16, as a TensorFlow graph; tfps_ops/core/rows/storage.h does the same in C++.

A bfloat16 has 8 bits of precision, so an update that is smaller than 1/256 of a number would be lost if the result were
rounded to the nearest. It is rounded at random, up or down, with the probabilities that make the mean right.
Source: Gupta et al. 2015, "Deep Learning with Limited Numerical Precision".
"""

import tensorflow as tf

DTYPES = (tf.float32, tf.bfloat16)
"""The dtypes of tables that the C++ ops read and update."""


def widen(rows: tf.Tensor) -> tf.Tensor:
    """Returns rows of bfloat16 as float32, and others as they are."""
    return tf.cast(rows, tf.float32) if rows.dtype == tf.bfloat16 else rows


def read_rows(variable: tf.Variable, rows: tf.Tensor) -> tf.Tensor:
    """Returns rows of a matrix variable, [m, width]; those of bfloat16 as float32."""
    return widen(tf.raw_ops.ResourceGather(resource=variable.handle, indices=rows, dtype=variable.dtype))


def round_at_random(rows: tf.Tensor) -> tf.Tensor:
    """Rounds each number to one of its two neighbours in bfloat16, so that the mean is the number.

    The random numbers are TensorFlow's, of the operation's own seed; those of the C++ ops follow from the update and
    the row.

    Args:
        rows: float32, of any shape.

    Returns:
        bfloat16 of the same shape. Infinities and NaN stay what they are.
    """
    bits = tf.bitcast(rows, tf.uint32)
    # A bfloat16 is the upper half of a float. 16 random bits that are added below it carry as often as they should.
    random = tf.random.uniform(tf.shape(rows), maxval=1 << 16, dtype=tf.int32)
    upper = tf.bitwise.right_shift(bits + tf.cast(random, tf.uint32), tf.constant(16, tf.uint32))
    drawn = tf.bitcast(tf.cast(upper, tf.uint16), tf.bfloat16)
    return tf.where(tf.math.is_finite(rows), drawn, tf.cast(rows, tf.bfloat16))


def round_delta(rows: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
    """Returns the delta that takes rows of bfloat16 to a random rounding of what the update makes of them.

    A delta and not the new row, so that a concurrent update of the row is not lost.

    Args:
        rows: the rows, float32 with values of bfloat16.
        delta: what the update adds to them, float32.

    Returns:
        bfloat16 of the same shape.
    """
    # Exact where old and new are within a factor of 2, and else right to 1/256 of the delta.
    return tf.cast(widen(round_at_random(rows + delta)) - rows, tf.bfloat16)
