"""Several tensors as one message: each tensor that crosses to another task costs a message of its own."""

from collections.abc import Sequence

import tensorflow as tf


def send_as_one(vectors: Sequence[tf.Tensor], device: str) -> list[tf.Tensor]:
    """Sends vectors of one dtype to another device as one tensor.

    Args:
        vectors: 1-D tensors of a 32 or 64 bit type.
        device: where they are wanted.

    Returns:
        The same vectors on that device.
    """
    message = concat_with_sizes(vectors)
    with tf.device(device):
        # The identity is what crosses: without it each part of the split would.
        return split_by_sizes(tf.identity(message), len(vectors))


def concat_with_sizes(vectors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Joins vectors of one 32 or 64 bit dtype: the bits of their sizes, then one vector after the other.

    Example: int64 `[7, 8]` and `[9]` become `[2, 1, 7, 8, 9]`. Of floats the sizes are int32 with the same bits.
    """
    sizes = tf.stack([tf.size(vector) for vector in vectors])
    header = tf.bitcast(tf.cast(sizes, _size_dtype(vectors[0].dtype)), vectors[0].dtype)
    return tf.concat([header, *vectors], 0)


def split_by_sizes(message: tf.Tensor, count: int) -> list[tf.Tensor]:
    """The `count` vectors that `concat_with_sizes` joined."""
    header, body = tf.split(message, [count, -1])
    return list(tf.split(body, tf.bitcast(header, _size_dtype(message.dtype)), num=count))


def _size_dtype(dtype: tf.DType) -> tf.DType:
    """The integer type with as many bits as an element of the message."""
    return tf.int32 if dtype.size == 4 else tf.int64
