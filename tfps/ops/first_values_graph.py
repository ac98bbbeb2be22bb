"""The first value of a row of a table that grows, in TensorFlow's own ops: for exported models, and to check the C++.

Element j of the row of an id is number `id * dim + j` of a Philox stream, in 128-bit arithmetic with the id as
unsigned. So uniform and normal rows of ids 0, 1, ... are the draw of TensorFlow's stateless ops for a matrix.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox 4x32-10).
"""

import math
from collections.abc import Sequence

import tensorflow as tf

_ROUNDS = 10
_FACTORS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def uniform_rows(ids: tf.Tensor, dim: int, stream: Sequence[int], low: float, high: float) -> tf.Tensor:
    """Returns rows whose elements are uniform in [low, high), float32 [m, dim].

    Args:
        ids: the ids, int64 [m].
        dim: the width of a row.
        stream: the key of the stream, and the two words of its counter, as int64.
        low: the lower limit.
        high: the upper limit.
    """
    words = _words(ids, dim, stream)
    low32, high32 = tf.constant(low, tf.float32), tf.constant(high, tf.float32)
    return _to_float(tf.gather(words, _lanes(ids, dim), batch_dims=2)) * (high32 - low32) + low32


def normal_rows(ids: tf.Tensor, dim: int, stream: Sequence[int], mean: float, stddev: float) -> tf.Tensor:
    """Returns rows whose elements are normal, float32 [m, dim]; arguments as for `uniform_rows`."""
    words, lanes = _words(ids, dim, stream), _lanes(ids, dim)
    # The transform of Box and Muller makes two numbers of two words: lanes 0 and 1, and lanes 2 and 3.
    first = _to_float(tf.gather(words, lanes - lanes % 2, batch_dims=2))
    second = _to_float(tf.gather(words, lanes - lanes % 2 + 1, batch_dims=2))
    radius = tf.sqrt(-2.0 * tf.math.log(tf.maximum(first, 1e-7)))
    angle = tf.constant(2 * math.pi, tf.float32) * second
    drawn = tf.where(lanes % 2 == 0, tf.sin(angle), tf.cos(angle)) * radius
    return drawn * tf.constant(stddev, tf.float32) + tf.constant(mean, tf.float32)


def _u64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)


def _low(word: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.bitwise_and(word, _u64(_LOW))


def _high(word: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.right_shift(word, _u64(32))


def _lanes(ids: tf.Tensor, dim: int) -> tf.Tensor:
    """Returns which of the four words of its block each element has, int32 [m, dim]."""
    # Four times anything more does not change the remainder, so 64 bits do.
    numbers = tf.bitcast(ids, tf.uint64)[:, tf.newaxis] * _u64(dim) + tf.cast(tf.range(dim), tf.uint64)
    return tf.cast(tf.bitwise.bitwise_and(numbers, _u64(3)), tf.int32)


def _words(ids: tf.Tensor, dim: int, stream: Sequence[int]) -> tf.Tensor:
    """Returns the block of each element: four words of 32 bits, uint64 [m, dim, 4]."""
    unsigned = tf.bitcast(ids, tf.uint64)[:, tf.newaxis]
    shift = tf.bitwise.right_shift
    # id * dim in two halves, as a product of 64 bits would lose the upper one.
    lower = tf.bitwise.bitwise_and(unsigned, _u64(_LOW)) * _u64(dim)
    upper = shift(unsigned, _u64(32)) * _u64(dim) + shift(lower, _u64(32))
    low = tf.bitwise.left_shift(upper, _u64(32)) + tf.bitwise.bitwise_and(lower, _u64(_LOW))
    start = low
    low += tf.cast(tf.range(dim), tf.uint64)
    high = shift(upper, _u64(32)) + tf.cast(low < start, tf.uint64)
    block = shift(low, _u64(2)) + tf.bitwise.left_shift(high, _u64(62)), shift(high, _u64(2))
    key, counter = stream[0] % 2**64, [word % 2**64 for word in stream[1:]]
    first = block[0] + _u64(counter[0])
    second = block[1] + _u64(counter[1]) + tf.cast(first < block[0], tf.uint64)
    return _philox([first, second], key)


def _philox(counter: Sequence[tf.Tensor], key: int) -> tf.Tensor:
    """Encrypts counters of 128 bits, given as two words of 64; returns four words of 32, in uint64s."""
    c0, c1, c2, c3 = _low(counter[0]), _high(counter[0]), _low(counter[1]), _high(counter[1])
    k0, k1 = key & _LOW, key >> 32
    xor = tf.bitwise.bitwise_xor
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _u64(_FACTORS[0]), c2 * _u64(_FACTORS[1])
        c0, c1, c2, c3 = (
            xor(xor(_high(product1), c1), _u64(k0)),
            _low(product1),
            xor(xor(_high(product0), c3), _u64(k1)),
            _low(product0),
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return tf.stack([c0, c1, c2, c3], axis=-1)


def _to_float(words: tf.Tensor) -> tf.Tensor:
    """Returns floats in [0, 1) from the low 23 bits of words, as TensorFlow's generator makes them."""
    bits = tf.bitwise.bitwise_and(words, _u64(0x7FFFFF)) + _u64(127 << 23)
    return tf.bitcast(tf.cast(bits, tf.uint32), tf.float32) - 1.0
