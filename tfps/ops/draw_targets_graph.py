"""`draw_targets` by TensorFlow's own ops, equal to the C++ op to the bit.

tfps_ops/core/negative_sampler.h describes how a row is drawn.
"""

import tensorflow as tf

_ATTEMPTS = 4
"""Draws until a row differs from the positive one; after them its neighbour is taken."""

_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio: the increment of the SplitMix64 generator."""


def draw_targets_graph(positives: tf.Tensor, aliases: tf.Tensor, seed: tf.Tensor, rows: int, count: int) -> tf.Tensor:
    """See `draw_targets`.

    Args:
        positives: int64 [n].
        aliases: int64 [rows], or empty.
        seed: int64 [2].
        rows: rows of the table.
        count: negatives of a pair.
    """
    first = tf.where((positives < 0) | (positives >= rows))[:1]
    message = f"`positives` must be at least 0 and below the rows, {rows}. Received:"
    data = [message, tf.gather_nd(positives, first), "as element", first[:, 0]]
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(tf.size(first), 0), data)]):
        positives = tf.identity(positives)
    key, counter = tf.unstack(tf.bitcast(seed, tf.uint64))
    mixed = _mix(_mix(key + _number(_GOLDEN)) + _number(_GOLDEN) * counter)
    pairs = tf.shape(positives, tf.int64)[0]
    places = tf.reshape(tf.range(pairs * (1 + count)), [-1, 1 + count])[:, 1:]
    positives = positives[:, tf.newaxis]
    # From the last attempt to the first, so that the first row that differs from the positive one wins.
    drawn = tf.broadcast_to((positives + 1) % rows, tf.shape(places))
    for attempt in reversed(range(_ATTEMPTS)):
        numbers = tf.bitcast(places * _ATTEMPTS + attempt, tf.uint64)
        found = _row(_mix(mixed + _number(_GOLDEN) * numbers), aliases, rows)
        drawn = tf.where(found == positives, drawn, found)
    return tf.concat([positives, drawn], 1)


def _row(random: tf.Tensor, aliases: tf.Tensor, rows: int) -> tf.Tensor:
    high, low = _right(random, 32), random & _number(0xFFFFFFFF)
    column = tf.bitcast(_right(high * _number(rows), 32), tf.int64)
    if aliases.shape == [0]:
        return column
    alias = tf.bitcast(tf.gather(aliases, column), tf.uint64)
    # TensorFlow compares no uint64. Both numbers are below 2^32, so as int64 they compare the same.
    stays = tf.bitcast(low, tf.int64) < tf.bitcast(_right(alias, 32), tf.int64)
    return tf.where(stays, column, tf.bitcast(alias & _number(0xFFFFFFFF), tf.int64))


def _mix(z: tf.Tensor) -> tf.Tensor:
    z = (z ^ _right(z, 30)) * _number(0xBF58476D1CE4E5B9)
    z = (z ^ _right(z, 27)) * _number(0x94D049BB133111EB)
    return z ^ _right(z, 31)


def _right(z: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.right_shift(z, _number(bits))


def _number(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)
