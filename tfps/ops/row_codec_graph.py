"""Codes rows with TensorFlow's own ops, bit for bit as the loops in tfps_ops/core/wire/wire_kernels.inc do."""

import tensorflow as tf

_MAGNITUDE, _INFINITY, _QUIET = 0x7FFFFFFF, 0x7F800000, 0x00400000
_LARGEST_BFLOAT16 = 0x7F7F0000
_LEAST, _MOST = 2e-36, 3.3e38
"""Rows whose elements are all smaller have the scale 0; 127 times the scale must not overflow."""
_NOT_FINITE = -128
_32_BITS = 0xFFFFFFFF


def encode_rows_graph(rows: tf.Tensor, codec: str, stochastic: bool) -> tf.Tensor:
    """Does the same with TensorFlow's own ops; see `tfps.ops.row_codec.encode_rows`."""
    if codec == "bfloat16":
        return fill_up(tf.reshape(_two_bytes(_to_bfloat16(rows, stochastic)), [-1]))
    scales, codes = _to_int8(rows, stochastic)
    return fill_up(tf.concat([tf.reshape(_two_bytes(scales), [-1]), tf.reshape(tf.bitcast(codes, tf.uint8), [-1])], 0))


def decode_rows_graph(coded: tf.Tensor, count: tf.Tensor, dim: int, codec: str) -> tf.Tensor:
    """Does the same with TensorFlow's own ops; see `tfps.ops.row_codec.decode_rows`."""
    size = count * (2 * dim if codec == "bfloat16" else dim + 2)
    fits = (count >= 0) & ((size + 3) // 4 == tf.size(coded, tf.int64))
    message = "`coded` must have the floats of its rows. Received:"
    with tf.control_dependencies([tf.debugging.Assert(fits, [message, tf.size(coded), count])]):
        as_bytes = to_bytes(coded)
    if codec == "bfloat16":
        return tf.reshape(_from_halves(as_bytes[:size]), [-1, dim])
    scales = _from_halves(as_bytes[: 2 * count])[:, tf.newaxis]
    codes = tf.reshape(tf.bitcast(as_bytes[2 * count : size], tf.int8), [-1, dim])
    nan = tf.bitcast(tf.constant(_INFINITY | _QUIET, tf.int32), tf.float32)
    return tf.where(tf.equal(codes, _NOT_FINITE), nan, tf.cast(codes, tf.float32) * scales)


def to_bytes(floats: tf.Tensor) -> tf.Tensor:
    """Returns the bytes of a float32 vector, uint8."""
    return tf.reshape(tf.bitcast(floats, tf.uint8), [-1])


def fill_up(as_bytes: tf.Tensor) -> tf.Tensor:
    """Returns bytes, uint8, as a float32 vector, filled up with zeros to whole floats."""
    filled = tf.pad(as_bytes, [[0, -tf.size(as_bytes) % 4]])
    return tf.bitcast(tf.reshape(filled, [-1, 4]), tf.float32)


def _bits_of(floats: tf.Tensor) -> tf.Tensor:
    """Returns the bits of float32 numbers as int64 numbers from 0 to 2**32 - 1."""
    # int64, because TensorFlow has few kernels for uint32, and products of 32 bits must not lose their upper part.
    return tf.cast(tf.bitcast(floats, tf.int32), tf.int64) & _32_BITS


def _shifted(numbers: tf.Tensor, places: int) -> tf.Tensor:
    """Returns int64 numbers of at least 0, shifted to the right."""
    return tf.bitwise.right_shift(numbers, tf.constant(places, tf.int64))


def _hash(bits: tf.Tensor) -> tf.Tensor:
    """Returns a hash of 32 bits of each element and its place, int64."""
    place = tf.reshape(tf.range(tf.size(bits, tf.int64)), tf.shape(bits))
    mixed = (bits * 0x9E3779B1 + place * 0x85EBCA77) & _32_BITS
    mixed ^= _shifted(mixed, 15)
    # 2**32 * 2**30 is within int64.
    mixed = (mixed * 0x2C1B3C6D) & _32_BITS
    return mixed ^ _shifted(mixed, 13)


def _to_bfloat16(rows: tf.Tensor, stochastic: bool) -> tf.Tensor:
    """Returns the bits of the bfloat16 numbers, int64 of the shape of the rows."""
    bits = _bits_of(rows)
    magnitude = bits & _MAGNITUDE
    carry = _shifted(_hash(bits), 16) if stochastic else 0x7FFF + (_shifted(bits, 16) & 1)
    rounded = magnitude + carry
    rounded = tf.where(rounded < _INFINITY, rounded, _LARGEST_BFLOAT16)
    special = tf.where(magnitude > _INFINITY, magnitude | _QUIET, magnitude)
    return _shifted((bits & (_MAGNITUDE + 1)) | tf.where(magnitude < _INFINITY, rounded, special), 16)


def _to_int8(rows: tf.Tensor, stochastic: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the bits of the scale of each row, int64 [count], and the codes, int8 [count, dim]."""
    bits = _bits_of(rows)
    finite = (bits & _MAGNITUDE) < _INFINITY
    plain = tf.where(finite, rows, 0.0)
    largest = tf.reduce_max(tf.abs(plain), 1)
    scale = tf.where(largest < _LEAST, 0.0, tf.minimum(largest, _MOST) / 127.0)
    # Rounded up, so that no code is above 127.
    scales = _shifted(_bits_of(scale) + 0xFFFF, 16)
    scale = tf.bitcast(tf.cast(scales * (1 << 16), tf.int32), tf.float32)
    inverse = tf.where(scale > 0.0, 1.0 / tf.where(scale > 0.0, scale, 1.0), 0.0)[:, tf.newaxis]
    dither = tf.cast(_shifted(_hash(bits), 8), tf.float32) * 2.0**-24 - 0.5 if stochastic else 0.0
    codes = tf.clip_by_value(tf.round(plain * inverse + dither), -127.0, 127.0)
    return scales, tf.cast(tf.where(finite, codes, float(_NOT_FINITE)), tf.int8)


def _two_bytes(halves: tf.Tensor) -> tf.Tensor:
    """Returns the two lower bytes of int64 numbers."""
    return tf.bitcast(halves, tf.uint8)[..., :2]


def _from_halves(as_bytes: tf.Tensor) -> tf.Tensor:
    """Returns bfloat16 numbers, of two bytes each, as a float32 vector."""
    # By bits: a cast may change those of a NaN.
    halves = tf.cast(tf.bitcast(tf.reshape(as_bytes, [-1, 2]), tf.uint16), tf.int32)
    return tf.bitcast(tf.bitwise.left_shift(halves, 16), tf.float32)
