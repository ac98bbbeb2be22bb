"""Sends several tensors to another task as one message, because each tensor that crosses costs a message."""

from collections.abc import Sequence

import tensorflow as tf


def send_as_one(vectors: Sequence[tf.Tensor], device: str) -> list[tf.Tensor]:
    """Sends vectors of one dtype to another device as one tensor.

    Args:
        vectors: 1-D tensors of one 32 or 64 bit dtype.
        device: the device that needs them.

    Returns:
        The same vectors on that device.
    """
    message = concat_with_sizes(vectors)
    with tf.device(device):
        # The identity makes the whole message cross. Without it, TensorFlow would send each part of the split.
        return split_by_sizes(tf.identity(message), len(vectors))


def concat_with_sizes(vectors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Concatenates vectors of one 32 or 64 bit dtype, behind a header with their sizes.

    Example: int64 `[7, 8]` and `[9]` become `[2, 1, 7, 8, 9]`. In a float32 message the header holds the bits of int32
    sizes.
    """
    # A bitcast keeps the bits. A cast to float32 would round sizes above 2**24.
    sizes = tf.stack([tf.size(vector) for vector in vectors])
    header = tf.bitcast(tf.cast(sizes, _size_dtype(vectors[0].dtype)), vectors[0].dtype)
    return tf.concat([header, *vectors], 0)


def split_by_sizes(message: tf.Tensor, count: int) -> list[tf.Tensor]:
    """Returns the `count` vectors that `concat_with_sizes` concatenated."""
    header, body = tf.split(message, [count, -1])
    return list(tf.split(body, tf.bitcast(header, _size_dtype(message.dtype)), num=count))


def _size_dtype(dtype: tf.DType) -> tf.DType:
    """Returns the integer type that has as many bits as an element of the message."""
    return tf.int32 if dtype.size == 4 else tf.int64
