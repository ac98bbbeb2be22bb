"""Writes requests in fewer bytes, and reads them. tfps_ops/core/wire/request_codec.h explains the layout."""

import tensorflow as tf

from tfps.ops import library
from tfps.ops.row_codec_graph import fill_up, to_bytes
from tfps.ops.row_request import REPEATS, split_request

_COUNT_BYTES, _MOST_WIDTH = 4, 8


def encode_request(request: tf.Tensor, pieces: int, marked: bool = False) -> tf.Tensor:
    """Codes a request: the rows of each piece take as many bytes as the largest of them needs.

    Args:
        request: the request from `route_unique`, int64 [pieces + m].
        pieces: the number of tables in it, at least 1.
        marked: whether `REPEATS` may have been added to its rows.

    Returns:
        A float32 vector, whose elements are bytes and no numbers.

    Raises:
        tf.errors.InvalidArgumentError: the counts of the request do not fit its rows.
    """
    ops = library.load()
    if ops is None:
        return encode_request_graph(request, pieces, marked)
    return ops.tfps_encode_request(request=request, pieces=pieces, marked=marked)


def decode_request(coded: tf.Tensor, pieces: int, marked: bool = False) -> tf.Tensor:
    """Reads what `encode_request` wrote; the arguments are the same there.

    Raises:
        tf.errors.InvalidArgumentError: the counts or widths do not fit the size of `coded`.
    """
    ops = library.load()
    if ops is None:
        return decode_request_graph(coded, pieces, marked)
    return ops.tfps_decode_request(coded=coded, pieces=pieces, marked=marked)


def encode_request_graph(request: tf.Tensor, pieces: int, marked: bool) -> tf.Tensor:
    """Does the same with TensorFlow's own ops; see `encode_request`."""
    counts, rows = split_request(request, pieces)
    plain = [local & ~REPEATS if marked else local for local in rows]
    widths = [_width_of(local) for local in plain]
    parts = [
        tf.reshape(tf.bitcast(counts, tf.uint8)[:, :_COUNT_BYTES], [-1]),
        tf.cast(tf.stack(widths), tf.uint8),
        *(
            tf.reshape(tf.reshape(tf.bitcast(local, tf.uint8), [-1, 8])[:, :width], [-1])
            for local, width in zip(plain, widths, strict=True)
        ),
    ]
    if marked:
        marks = tf.cast(request[pieces:] & REPEATS != 0, tf.int32)
        eights = tf.reshape(tf.pad(marks, [[0, -tf.size(marks) % 8]]), [-1, 8])
        parts.append(tf.cast(tf.reduce_sum(eights * [1 << bit for bit in range(8)], 1), tf.uint8))
    return fill_up(tf.concat(parts, 0))


def decode_request_graph(coded: tf.Tensor, pieces: int, marked: bool) -> tf.Tensor:
    """Does the same with TensorFlow's own ops; see `decode_request`."""
    as_bytes = to_bytes(coded)
    head = pieces * (_COUNT_BYTES + 1)
    message = "`coded` must be a request. Received:"
    with tf.control_dependencies([tf.debugging.Assert(tf.size(as_bytes) >= head, [message, tf.size(coded)])]):
        counts = tf.bitcast(tf.reshape(as_bytes[: pieces * _COUNT_BYTES], [-1, _COUNT_BYTES]), tf.uint32)
    counts = tf.cast(counts, tf.int64)
    widths = tf.cast(as_bytes[pieces * _COUNT_BYTES : head], tf.int64)
    rows = tf.reduce_sum(counts)
    used = head + tf.reduce_sum(counts * widths) + ((rows + 7) // 8 if marked else 0)
    over = tf.size(as_bytes, tf.int64) - used
    fits = tf.reduce_all((widths >= 1) & (widths <= _MOST_WIDTH)) & (over >= 0) & (over < 4)
    with tf.control_dependencies([tf.debugging.Assert(fits, [message, counts, widths])]):
        parts = tf.split(as_bytes[head : used - ((rows + 7) // 8 if marked else 0)], counts * widths, num=pieces)
    local = [
        tf.bitcast(tf.pad(tf.reshape(part, [-1, width]), [[0, 0], [0, _MOST_WIDTH - width]]), tf.int64)
        for part, width in zip(parts, tf.unstack(tf.cast(widths, tf.int32), num=pieces), strict=True)
    ]
    flat = tf.concat(local, 0)
    if marked:
        bits = tf.cast(as_bytes[used - (rows + 7) // 8 : used], tf.int32)[:, tf.newaxis] // [1 << b for b in range(8)]
        flat |= tf.cast(tf.reshape(bits & 1, [-1])[:rows], tf.int64) * REPEATS
    return tf.concat([counts, flat], 0)


def _width_of(local: tf.Tensor) -> tf.Tensor:
    """Returns the bytes that the largest of some row numbers needs, int32; 1 if there is none."""
    used = tf.reduce_any(tf.reshape(tf.bitcast(local, tf.uint8), [-1, 8]) != 0, 0)
    return tf.maximum(1, tf.reduce_max(tf.where(used, tf.range(1, 9), 0)))
