"""What an assigned value keeps of its variable, as the trace of a step shows it."""

import numpy as np
import pytest
import tensorflow as tf

from tfps.training.affine import Dependencies, Extreme, keep_outside

CASES = {
    "adds": (lambda v, x, d: v + x, 1.0),
    "subtracts": (lambda v, x, d: x - v, -1.0),
    "replaces": (lambda v, x, d: 2.0 * x, 0.0),
    "averages": (lambda v, x, d: 0.9 * v + 0.1 * x, 0.9),
    "averages by a step": (lambda v, x, d: v - (v - x) * 0.1, 0.9),
    "averages by a computed decay": (lambda v, x, d: d * v + (1.0 - d) * x, 0.75),
    "averages by a decay of each element": (lambda v, x, d: [0.9, 1.0] * v + [0.1, 0.0] * x, [0.9, 1.0]),
    "divides": (lambda v, x, d: v / 4.0 + x, 0.25),
    "chooses": (lambda v, x, d: tf.where(d > 0.5, tf.identity(-v), x), -1.0),
    "adds or not": (lambda v, x, d: tf.where(x > 1.5, v + 1.0, v), 1.0),
    "chooses each element": (lambda v, x, d: tf.where(x > 1.5, 7.0, 0.5 * v), [0.5, 0.0]),
    "replaces an element": (lambda v, x, d: tf.tensor_scatter_nd_update(v, [[1]], x[:1]), [1.0, 0.0]),
    "adds to an element": (lambda v, x, d: tf.tensor_scatter_nd_add(v, [[1]], x[:1]), 1.0),
    "adds itself to an element": (lambda v, x, d: tf.tensor_scatter_nd_add(v, [[1]], v[:1]), None),
    "clips": (lambda v, x, d: tf.clip_by_value(v, 0.0, 1.0), None),
    "squares": (lambda v, x, d: v * v, None),
    "divides by itself": (lambda v, x, d: x / v, None),
    "scales by itself": (lambda v, x, d: v * tf.reduce_sum(v), None),
    "scales each element": (lambda v, x, d: v * x, [1.0, 2.0]),
    "chooses by itself": (lambda v, x, d: tf.where(tf.reduce_sum(v) > 0.0, v, x), None),
    "branches on a constant": (lambda v, x, d: tf.where(True, v, x), 1.0),
}


@pytest.mark.parametrize("within", ["step", "branch"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_kept(name, within):
    value_of, expected = CASES[name]
    variable = tf.Variable([3.0, 4.0])

    @tf.function(autograph=False)
    def keep(x, d):
        found = []

        def trace():
            kept = Dependencies().keep_of(value_of(variable, x, d), variable.handle)
            found.append(kept is None)
            return tf.broadcast_to(tf.cast(-99.0 if kept is None else kept, tf.float32), [2])

        return tf.cond(d > 0.0, trace, lambda: tf.zeros([2])) if within == "branch" else trace()

    found = keep(tf.constant([1.0, 2.0]), tf.constant(0.75)).numpy()
    np.testing.assert_allclose(found, np.broadcast_to(-99.0 if expected is None else expected, [2]))


EXTREMES = {
    "greatest": (lambda v, x: tf.maximum(v, x), Extreme.GREATEST),
    "least of several": (lambda v, x: tf.minimum(tf.minimum(x, tf.identity(v)), 2.0), Extreme.LEAST),
    "greatest, then least": (lambda v, x: tf.minimum(tf.maximum(v, x), 2.0), None),
    "greatest of a multiple": (lambda v, x: tf.maximum(0.9 * v, x), None),
    "greatest of other values": (lambda v, x: tf.maximum(x, 2.0), None),
    "sum": (lambda v, x: v + x, None),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_which_value_remains(name):
    value_of, expected = EXTREMES[name]
    variable, found = tf.Variable([3.0, 4.0]), []

    @tf.function(autograph=False)
    def trace(x):
        found.append(Dependencies().extreme_of(value_of(variable, x), variable.handle))

    trace.get_concrete_function(tf.TensorSpec([2]))
    assert found == [expected]


def test_slices_that_are_overwritten_are_not_kept():
    found = keep_outside(tf.constant([[2], [0]]), tf.TensorShape([3, 2]))
    np.testing.assert_array_equal(found, [[0, 0], [1, 1], [0, 0]])
    np.testing.assert_array_equal(keep_outside([[0, 1]], tf.TensorShape([1, 3]), 0.5), [[0.5, 0, 0.5]])
