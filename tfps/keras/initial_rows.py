"""Draws any range of rows of a table from a Keras initializer, equal to a slice of the whole draw.

TensorFlow's stateless generator on CPUs (Philox 4x32-10) is counter-based: element i of a uniform or normal draw comes
from counter + i // 4. Moving the counter therefore draws a range of rows.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import math
from typing import Any

import tensorflow as tf

from tfps.embedding.initialization import RowSource
from tfps.keras._compat import keras

_PHILOX = 1
"""The number of the Philox generator in TensorFlow's ops."""


def row_source(initializer: keras.initializers.Initializer, shape: tuple[int, ...], dtype: str) -> RowSource | None:
    """Returns the function that draws rows [start, end) of a table [rows, dim].

    Args:
        initializer: a Keras initializer.
        shape: the shape of the whole table.
        dtype: the dtype of the table; only float32 can be drawn by rows.

    Returns:
        The function; None if the initializer can only draw the whole table.
    """
    # An initializer without an integer seed draws other numbers on every call, so its draws cannot be sliced.
    if len(shape) != 2 or dtype != "float32" or not isinstance(getattr(initializer, "seed", None), int):
        return None
    # The types are compared exactly, because a subclass may draw in a different way.
    if type(initializer) is keras.initializers.RandomUniform:
        return _uniform(initializer.seed, initializer.minval, initializer.maxval, shape[1])
    if type(initializer) is keras.initializers.RandomNormal:
        return _normal(initializer.seed, initializer.mean, initializer.stddev, shape[1])
    if isinstance(initializer, keras.initializers.VarianceScaling):
        return _variance_scaling(initializer, shape)
    return None


def _variance_scaling(initializer: keras.initializers.VarianceScaling, shape: tuple[int, ...]) -> RowSource | None:
    """Handles He and Glorot initializers. Their scale depends on the shape of the whole table, [fan_in, fan_out]."""
    # The same formulas as in Keras. For fan_avg, scale 1 and shape [1000, 8] the limit is sqrt(3 / 504) = 0.077.
    fan = {"fan_in": shape[0], "fan_out": shape[1], "fan_avg": (shape[0] + shape[1]) / 2}[initializer.mode]
    scale = initializer.scale / max(1.0, fan)
    if initializer.distribution == "uniform":
        limit = math.sqrt(3.0 * scale)
        return _uniform(initializer.seed, -limit, limit, shape[1])
    if initializer.distribution == "untruncated_normal":
        return _normal(initializer.seed, 0.0, math.sqrt(scale), shape[1])
    # A truncated normal draws again until a number fits, so elements are not at known counters.
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
    """Returns the arguments of the op that draws rows [start, end). `start` must be a multiple of 4."""
    # Keras folds the seed in the same way, so that the rows equal the draw of one process.
    folded = tf.cast(tf.math.floormod(tf.constant([seed, 0], tf.int64), tf.int32.max - 1), tf.int32)
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=folded)
    # The counter counts blocks of 4 numbers. With dim 3, row 8 starts at element 24, which is block 6.
    first_block = counter + tf.constant([start * dim // 4, 0], tf.uint64)
    return {"shape": [end - start, dim], "key": key, "counter": first_block, "alg": _PHILOX}
