"""gather_rows against numpy, in both of its forms."""

import numpy as np
import pytest
import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops.gather_rows import gather_rows


def tables_of(rng, rows, dim):
    return [tf.Variable(rng.normal(size=[n, dim]), dtype=tf.float32) for n in rows]


@pytest.mark.parametrize("dim", [1, 10, 64])
@pytest.mark.parametrize("counts", [[3, 0, 5], [0, 0, 0], [4000, 1, 9000]])
def test_equals_numpy(way, rng, dim, counts):
    tables = tables_of(rng, [100, 1, 5000], dim)
    local = [rng.integers(0, t.shape[0], c) for t, c in zip(tables, counts, strict=True)]
    rows = gather_rows(tables, np.concatenate([counts, *local]).astype(np.int64))
    expected = np.concatenate([t.numpy()[w] for t, w in zip(tables, local, strict=True)])
    np.testing.assert_array_equal(rows, expected)


def test_a_variable_may_come_twice(way, rng):
    (table,) = tables_of(rng, [10], 3)
    rows = gather_rows([table, table], tf.constant([1, 1, 4, 4], tf.int64))
    np.testing.assert_array_equal(rows, table.numpy()[[4, 4]])


def test_static_width_inside_a_function(way, rng):
    tables = tables_of(rng, [10, 10], 3)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
    def run(request):
        rows = gather_rows(tables, request)
        assert rows.shape.as_list() == [None, 3]
        return rows

    assert run(tf.constant([0, 1, 4], tf.int64)).shape == [1, 3]


@pytest.mark.parametrize(
    "request_",
    [[1, 0, 10], [1, 0, -1], [2, 0, 1], [0, 0, 1], [-1, 2, 1], [2**62, 2**62], [1]],
    ids=["row", "negative row", "too few rows", "too many rows", "negative count", "overflow", "no counts"],
)
def test_a_wrong_request_is_an_error(way, rng, request_):
    with pytest.raises(tf.errors.InvalidArgumentError):
        gather_rows(tables_of(rng, [10, 10], 3), tf.constant(request_, tf.int64))


def test_another_dtype_goes_by_tensorflow(way):
    table = tf.Variable(tf.reshape(tf.range(6, dtype=tf.float64), [3, 2]))
    np.testing.assert_array_equal(gather_rows([table], tf.constant([1, 2], tf.int64)), [[4.0, 5.0]])


def test_arguments_are_checked():
    with pytest.raises(ConfigError, match="at least one variable"):
        gather_rows([], [0])
    with pytest.raises(ConfigError, match=r"one known width.*Received: float32 of shape \(4, 3\) after"):
        gather_rows([tf.Variable(tf.zeros([4, 2])), tf.Variable(tf.zeros([4, 3]))], [0, 0])
