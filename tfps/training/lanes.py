"""Tensors of any type as one float32 vector and back, so that many cross between two machines as one message.

Types of 4 bytes take one lane an element, those of 8 bytes two, and keep their bits; narrower ones are cast.
Example: an int64 3 and a bool True are [4.2e-45, 0.0, 1.0]: two lanes with the bits of 3, and 1.0.
"""

from collections.abc import Sequence

import tensorflow as tf

_WIDE = (tf.int64, tf.uint64, tf.float64)
_SAME = (tf.int32, tf.uint32)


def lanes(size: int, dtype: tf.DType) -> int:
    """Float32 lanes that `size` elements of `dtype` take."""
    return 2 * size if dtype in _WIDE else size


def pack(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """All elements of all tensors as one float32 vector."""
    return tf.concat([_to_lanes(tensor) for tensor in tensors] or [tf.zeros([0])], 0)


def unpack(vector: tf.Tensor, shapes: Sequence[tf.TensorShape], dtypes: Sequence[tf.DType]) -> list[tf.Tensor]:
    """The inverse of `pack` for tensors of these static shapes and types."""
    sizes = [lanes(tf.TensorShape(s).num_elements(), tf.as_dtype(d)) for s, d in zip(shapes, dtypes, strict=True)]
    parts = tf.split(vector, sizes) if sizes else []
    return [_from_lanes(p, s, tf.as_dtype(d)) for p, s, d in zip(parts, shapes, dtypes, strict=True)]


def _to_lanes(tensor: tf.Tensor) -> tf.Tensor:
    flat = tf.reshape(tensor, [-1])
    if flat.dtype == tf.float32:
        return flat
    if flat.dtype in _WIDE or flat.dtype in _SAME:
        return tf.reshape(tf.bitcast(flat, tf.float32), [-1])
    # bool, float16, int8 and the like: float32 has all their values.
    return tf.cast(flat, tf.float32)


def _from_lanes(lane: tf.Tensor, shape: tf.TensorShape, dtype: tf.DType) -> tf.Tensor:
    if dtype in _WIDE:
        # Two lanes are the halves of one element, in the order of the machine: all machines of a cluster must have the
        # same.
        lane = tf.bitcast(tf.reshape(lane, [-1, 2]), dtype)
    elif dtype in _SAME:
        lane = tf.bitcast(lane, dtype)
    return tf.reshape(tf.cast(lane, dtype), shape)
