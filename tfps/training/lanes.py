"""Packs tensors of any types into one float32 vector and back, so that many cross the network as one message.

Types of 4 bytes take one lane an element and types of 8 bytes two; both keep their bits. Narrower types are cast.
Example: an int64 3 and a bool True become [4.2e-45, 0.0, 1.0]: two lanes with the bits of 3, and 1.0.
"""

from collections.abc import Sequence

import tensorflow as tf

_WIDE = (tf.int64, tf.uint64, tf.float64)
_SAME = (tf.int32, tf.uint32)


def lanes(size: int, dtype: tf.DType) -> int:
    """Returns the number of float32 lanes that `size` elements of `dtype` take."""
    return 2 * size if dtype in _WIDE else size


def pack(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Packs all elements of all tensors into one float32 vector."""
    return tf.concat([_to_lanes(tensor) for tensor in tensors] or [tf.zeros([0])], 0)


def unpack(vector: tf.Tensor, shapes: Sequence[tf.TensorShape], dtypes: Sequence[tf.DType]) -> list[tf.Tensor]:
    """Unpacks a vector from `pack` into tensors of these static shapes and types."""
    sizes = [lanes(tf.TensorShape(s).num_elements(), tf.as_dtype(d)) for s, d in zip(shapes, dtypes, strict=True)]
    parts = tf.split(vector, sizes) if sizes else []
    return [_from_lanes(p, s, tf.as_dtype(d)) for p, s, d in zip(parts, shapes, dtypes, strict=True)]


def _to_lanes(tensor: tf.Tensor) -> tf.Tensor:
    flat = tf.reshape(tensor, [-1])
    if flat.dtype == tf.float32:
        return flat
    if flat.dtype in _WIDE or flat.dtype in _SAME:
        return tf.reshape(tf.bitcast(flat, tf.float32), [-1])
    # Narrow types such as bool, float16 and int8: float32 can represent all their values.
    return tf.cast(flat, tf.float32)


def _from_lanes(lane: tf.Tensor, shape: tf.TensorShape, dtype: tf.DType) -> tf.Tensor:
    if dtype in _WIDE:
        # The two lanes of an element are in the byte order of the machine, which all machines of a cluster must share.
        lane = tf.bitcast(tf.reshape(lane, [-1, 2]), dtype)
    elif dtype in _SAME:
        lane = tf.bitcast(lane, dtype)
    return tf.reshape(tf.cast(lane, dtype), shape)
