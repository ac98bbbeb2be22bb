"""segment_sum_rows against numpy, in both of its forms."""

import numpy as np
import pytest
import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops.row_request import REPEATS
from tfps.ops.segment_sum_rows import segment_sum_repeats, segment_sum_rows


def brute_force(gradients, inverse, rows):
    total = np.zeros([rows, gradients[0].shape[-1]], np.float64)
    for gradient, places in zip(gradients, inverse, strict=True):
        np.add.at(total, places.reshape(-1), gradient.reshape(-1, gradient.shape[-1]))
    return total


@pytest.mark.parametrize("dim", [1, 3, 16, 37])
@pytest.mark.parametrize("rows", [1, 50, 20_000])
def test_equals_brute_force(way, rng, dim, rows):
    inverse = [rng.integers(0, rows, shape).astype(np.int32) for shape in [(7, 3), (0,), (5000,)]]
    gradients = [rng.normal(size=[*i.shape, dim]).astype(np.float32) for i in inverse]
    sums = segment_sum_rows(gradients, inverse, rows)
    np.testing.assert_allclose(sums, brute_force(gradients, inverse, rows), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("measure", "of"), [("square", np.square), ("magnitude", np.abs)])
@pytest.mark.parametrize(("dim", "rows"), [(1, 1), (3, 50), (16, 20_000)])
def test_measures_equal_brute_force(way, rng, measure, of, dim, rows):
    inverse = [rng.integers(0, rows, shape).astype(np.int32) for shape in [(7, 3), (0,), (5000,)]]
    gradients = [rng.normal(size=[*i.shape, dim]).astype(np.float32) for i in inverse]
    sums, marks, measures = segment_sum_repeats(gradients, inverse, rows, measure)
    np.testing.assert_array_equal(sums, segment_sum_rows(gradients, inverse, rows))
    repeats = np.bincount(np.concatenate([i.reshape(-1) for i in inverse]), minlength=rows) > 1
    np.testing.assert_array_equal(marks, np.where(repeats, REPEATS, 0))
    expected = brute_force([of(gradient) for gradient in gradients], inverse, rows)[repeats]
    np.testing.assert_allclose(measures, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("bad", [-1, 4])
def test_a_position_out_of_range_is_an_error(way, bad):
    with pytest.raises(tf.errors.InvalidArgumentError):
        segment_sum_rows([tf.ones([2, 3])], [tf.constant([0, bad])], 4)


def test_arguments_are_checked():
    with pytest.raises(ConfigError, match="one element a lookup"):
        segment_sum_rows([], [], 1)
    with pytest.raises(ConfigError, match="Received: 1 and 2"):
        segment_sum_rows([tf.ones([1, 1])], [[0], [0]], 1)
