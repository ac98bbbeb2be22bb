"""`draw_targets` with TensorFlow's own ops, equal to the C++ op to the bit.

tfps_ops/core/negative_sampler.h describes how a row is drawn.
"""

import tensorflow as tf

_ATTEMPTS = 4
"""Draws before the row next to the positive row is taken instead, because all of them hit the positive row."""

_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio: the increment of the SplitMix64 generator."""


def draw_targets_graph(positives: tf.Tensor, aliases: tf.Tensor, seed: tf.Tensor, rows: int, count: int) -> tf.Tensor:
    """Draws targets; see `draw_targets`.

    Args:
        positives: the positive row of each pair, int64 [n].
        aliases: the alias table, int64 [rows]; empty for a uniform draw.
        seed: the key and the counter, int64 [2].
        rows: the number of rows of the table.
        count: the number of negatives of each pair.
    """
    # The text of the C++ op, which `id_range` parses.
    first = tf.where((positives < 0) | (positives >= rows))[:1]
    message = f"`positives` must be at least 0 and below the rows, {rows}. Received:"
    data = [message, tf.gather_nd(positives, first), "as element", first[:, 0]]
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(tf.size(first), 0), data)]):
        positives = tf.identity(positives)
    key, counter = tf.unstack(tf.bitcast(seed, tf.uint64))
    mixed = _mix(_mix(key + _uint64(_GOLDEN)) + _uint64(_GOLDEN) * counter)
    # Each target has a number, its position in the result, from which its random bits follow. Column 0 is the positive.
    pairs = tf.shape(positives, tf.int64)[0]
    places = tf.reshape(tf.range(pairs * (1 + count)), [-1, 1 + count])[:, 1:]
    positives = positives[:, tf.newaxis]
    # The attempts are made from last to first, so that the first row that differs from the positive row wins.
    drawn = tf.broadcast_to((positives + 1) % rows, tf.shape(places))
    for attempt in reversed(range(_ATTEMPTS)):
        numbers = tf.bitcast(places * _ATTEMPTS + attempt, tf.uint64)
        row = _pick_row(_mix(mixed + _uint64(_GOLDEN) * numbers), aliases, rows)
        drawn = tf.where(row == positives, drawn, row)
    return tf.concat([positives, drawn], 1)


def _pick_row(random: tf.Tensor, aliases: tf.Tensor, rows: int) -> tf.Tensor:
    # The high 32 bits choose the column, the low 32 bits decide between the column and its alias.
    high, low = _shift_right(random, 32), random & _uint64(0xFFFFFFFF)
    # high * rows / 2^32 maps the 32 bits to 0 .. rows - 1.
    column = tf.bitcast(_shift_right(high * _uint64(rows), 32), tf.int64)
    if aliases.shape == [0]:
        return column
    alias = tf.bitcast(tf.gather(aliases, column), tf.uint64)
    # TensorFlow cannot compare uint64. Both numbers are below 2^32, so they compare the same as int64.
    stays = tf.bitcast(low, tf.int64) < tf.bitcast(_shift_right(alias, 32), tf.int64)
    return tf.where(stays, column, tf.bitcast(alias & _uint64(0xFFFFFFFF), tf.int64))


# The finalizer of SplitMix64, whose constants these are.
def _mix(z: tf.Tensor) -> tf.Tensor:
    z = (z ^ _shift_right(z, 30)) * _uint64(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _uint64(0x94D049BB133111EB)
    return z ^ _shift_right(z, 31)


def _shift_right(z: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.right_shift(z, _uint64(bits))


def _uint64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)
