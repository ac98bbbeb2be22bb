"""Keras initializers that can draw any range of rows of a table, equal to a slice of what they draw for the whole.

TensorFlow's stateless generator on CPUs (Philox 4x32-10) is counted: element i of a uniform or normal draw comes from
counter + i // 4, so a range of rows is drawn by moving the counter. Source: Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011.
"""

import math
from typing import Any

import tensorflow as tf

from tfps.embedding.initialization import RowSource
from tfps.keras._compat import keras

_PHILOX = 1
"""The number of the generator in TensorFlow's ops."""


def row_source(initializer: keras.initializers.Initializer, shape: tuple[int, ...], dtype: str) -> RowSource | None:
    """Finds the function that draws rows [start, end) of a table [rows, dim].

    Args:
        initializer: of Keras.
        shape: of the whole table.
        dtype: of the table; only float32 can be drawn by rows.

    Returns:
        The function; None where the initializer can only draw the whole table.
    """
    if len(shape) != 2 or dtype != "float32" or not isinstance(getattr(initializer, "seed", None), int):
        return None
    # The types are compared exactly, as a subclass may draw in another way.
    if type(initializer) is keras.initializers.RandomUniform:
        return _uniform(initializer.seed, initializer.minval, initializer.maxval, shape[1])
    if type(initializer) is keras.initializers.RandomNormal:
        return _normal(initializer.seed, initializer.mean, initializer.stddev, shape[1])
    if isinstance(initializer, keras.initializers.VarianceScaling):
        return _variance_scaling(initializer, shape)
    return None


def _variance_scaling(initializer: keras.initializers.VarianceScaling, shape: tuple[int, ...]) -> RowSource | None:
    """He and Glorot initializers: the scale follows the whole table's shape, [fan_in, fan_out]."""
    fan = {"fan_in": shape[0], "fan_out": shape[1], "fan_avg": (shape[0] + shape[1]) / 2}[initializer.mode]
    scale = initializer.scale / max(1.0, fan)
    if initializer.distribution == "uniform":
        limit = math.sqrt(3.0 * scale)
        return _uniform(initializer.seed, -limit, limit, shape[1])
    if initializer.distribution == "untruncated_normal":
        return _normal(initializer.seed, 0.0, math.sqrt(scale), shape[1])
    return None


def _uniform(seed: int, low: float, high: float, dim: int) -> RowSource:
    def rows(start: int, end: int) -> tf.Tensor:
        drawn = tf.raw_ops.StatelessRandomUniformV2(**_draw(seed, start, end, dim))
        return drawn * (tf.cast(high, tf.float32) - tf.cast(low, tf.float32)) + tf.cast(low, tf.float32)

    return rows


def _normal(seed: int, mean: float, stddev: float, dim: int) -> RowSource:
    def rows(start: int, end: int) -> tf.Tensor:
        return tf.raw_ops.StatelessRandomNormalV2(**_draw(seed, start, end, dim)) * stddev + mean

    return rows


def _draw(seed: int, start: int, end: int, dim: int) -> dict[str, Any]:
    """Arguments of a draw of rows [start, end); `start` is a multiple of 4, so the counter moves by whole blocks."""
    # Keras folds the seed in this way; with another seed the rows would be others than in one process.
    folded = tf.cast(tf.math.floormod(tf.constant([seed, 0], tf.int64), tf.int32.max - 1), tf.int32)
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=folded)
    # A block of the generator is 4 numbers: element i of the draw comes from counter + i // 4.
    moved = counter + tf.constant([start * dim // 4, 0], tf.uint64)
    return {"shape": [end - start, dim], "key": key, "counter": moved, "alg": _PHILOX}
