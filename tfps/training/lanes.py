"""Tensors of any type as one float32 vector and back, so that many cross between two machines as one message."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

_WIDE = (tf.int64, tf.uint64, tf.float64)
_SAME = (tf.int32, tf.uint32)


def lanes(size: int, dtype: Any) -> int:
    """Float32 lanes that `size` elements of `dtype` take."""
    return 2 * size if dtype in _WIDE else size


def pack(tensors: Sequence[Any]) -> Any:
    """All elements of all tensors as one float32 vector; 4 and 8 byte types keep their bits, narrower ones are cast."""
    return tf.concat([_to_floats(tensor) for tensor in tensors] or [tf.zeros([0])], 0)


def unpack(vector: Any, shapes: Sequence[Any], dtypes: Sequence[Any]) -> list[Any]:
    """The inverse of `pack` for tensors of these static shapes and types."""
    sizes = [lanes(tf.TensorShape(s).num_elements(), tf.as_dtype(d)) for s, d in zip(shapes, dtypes, strict=True)]
    parts = tf.split(vector, sizes) if sizes else []
    return [_from_floats(p, s, tf.as_dtype(d)) for p, s, d in zip(parts, shapes, dtypes, strict=True)]


def _to_floats(tensor: Any) -> Any:
    flat = tf.reshape(tensor, [-1])
    if flat.dtype == tf.float32:
        return flat
    if flat.dtype in _WIDE or flat.dtype in _SAME:
        return tf.reshape(tf.bitcast(flat, tf.float32), [-1])
    return tf.cast(flat, tf.float32)


def _from_floats(lane: Any, shape: Any, dtype: Any) -> Any:
    if dtype in _WIDE:
        lane = tf.bitcast(tf.reshape(lane, [-1, 2]), dtype)
    elif dtype in _SAME:
        lane = tf.bitcast(lane, dtype)
    return tf.reshape(tf.cast(lane, dtype), shape)
