"""Constants that a graph shares."""

import numpy as np
import pytest
import tensorflow as tf

from tfps.ops.shared_constants import gather_rows_at, shared_constant


def constants(graph):
    return sum(operation.type == "Const" for operation in graph.get_operations())


def test_a_graph_has_each_constant_once():
    @tf.function
    def double(x):
        total = shared_constant(0, tf.int64)
        for _ in range(5):
            total += shared_constant(3, tf.int64) + shared_constant(3, tf.int64) * x
        # A branch has a graph of its own, where the constant has to be of that graph.
        return tf.cond(x > 1, lambda: total + shared_constant(3, tf.int64), lambda: total)

    concrete = double.get_concrete_function(tf.TensorSpec([], tf.int64))
    assert int(double(tf.constant(2, tf.int64))) == 48
    assert constants(concrete.graph) == 3  # 0, 3, and the 1 of the comparison


def test_a_constant_is_not_placed_with_its_first_user():
    @tf.function
    def one():
        with tf.device("/job:ps/task:1"):
            return shared_constant((4, 2), tf.int64)

    (operation,) = [one for one in one.get_concrete_function().graph.get_operations() if one.type == "Const"]
    assert operation.device == ""


@pytest.mark.parametrize(
    ("value", "dtype"), [(7, tf.int32), ((1 << 40) + 5, tf.int32), (-1, tf.uint8), ((2, 3), tf.int64)]
)
def test_values_are_those_of_a_cast(value, dtype):
    expected = np.asarray(value, np.int64).astype(dtype.as_numpy_dtype)
    np.testing.assert_array_equal(shared_constant(value, dtype), expected)
    np.testing.assert_array_equal(tf.function(lambda: shared_constant(value, dtype))(), expected)


def test_rows_are_those_of_gather():
    random = np.random.default_rng(0)
    rows, places = random.random((9, 4)).astype("float32"), random.integers(0, 9, (3, 5)).astype("int32")
    for gather in (gather_rows_at, tf.function(gather_rows_at)):
        np.testing.assert_array_equal(gather(tf.constant(rows), tf.constant(places)), tf.gather(rows, places))
