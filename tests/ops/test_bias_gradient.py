"""The gradient of a bias in bfloat16: against float64, with and without a ReLU, and differentiated twice."""

import numpy as np
import pytest
import tensorflow as tf

from tfps.ops import library
from tfps.ops.bias_gradient import bias_add

ROUNDING = 2**-8


def gradients_of(activation, values, bias, upstream, twice=False):
    """The gradients of sum(upstream * activation(values + bias)), traced; `twice` of the sum of their squares."""

    @tf.function
    def step(values, bias):
        with tf.GradientTape() as outer:
            outer.watch((values, bias))
            with tf.GradientTape() as tape:
                tape.watch((values, bias))
                result = activation(bias_add(tf.nn.bias_add, values, bias))
                total = tf.reduce_sum(result * upstream)
            first = tape.gradient(total, (values, bias))
            squares = tf.add_n([tf.reduce_sum(tf.cast(one, tf.float32) ** 2) for one in first])
        return outer.gradient(squares, (values, bias)) if twice else first

    kinds = [op.type for op in step.get_concrete_function(values, bias).graph.get_operations()]
    return step(values, bias), kinds


@pytest.mark.parametrize("activation", [tf.nn.relu, tf.nn.tanh, tf.identity], ids=["relu", "tanh", "linear"])
@pytest.mark.parametrize("shape", [(512, 65), (3, 40, 7), (1, 1), (0, 5)])
def test_sums_are_as_exact_as_their_result(way, rng, activation, shape):
    values = tf.cast(rng.normal(size=shape), tf.bfloat16)
    bias = tf.cast(rng.normal(size=shape[-1:]), tf.bfloat16)
    upstream = tf.cast(rng.uniform(0.5, 1, size=shape), tf.bfloat16)
    (of_values, of_bias), kinds = gradients_of(activation, values, bias, upstream)
    assert ("TfpsReluBiasGrad" in kinds) == (way == "library" and activation is tf.nn.relu)
    assert "BiasAddGrad" not in kinds
    if activation is tf.nn.relu:
        expected = np.where((values + bias).numpy() > 0, upstream.numpy(), 0)
        np.testing.assert_array_equal(of_values.numpy(), expected)
    sums = of_values.numpy().astype(np.float64).reshape(-1, shape[-1]).sum(0)
    np.testing.assert_allclose(of_bias.numpy().astype(np.float64), sums, rtol=ROUNDING, atol=1e-6)


def test_tensorflow_itself_is_less_exact():
    """Why the op exists: if this fails, TensorFlow sums in float32 too."""
    ones = tf.ones([4096, 1], tf.bfloat16)
    assert float(tf.raw_ops.BiasAddGrad(out_backprop=ones)[0]) < 0.9 * 4096


def test_differentiated_twice(way, rng):
    values, upstream = (tf.cast(rng.normal(size=(6, 4)), tf.bfloat16) for _ in range(2))
    bias = tf.zeros([4], tf.bfloat16)

    def curved(sums):
        result = tf.nn.relu(sums)
        return result * result

    (of_values, of_bias), kinds = gradients_of(curved, values, bias, upstream, twice=True)
    assert ("TfpsReluBiasGrad" in kinds) == (way == "library")
    # f = sum u r^2, so df/dx = 2 u r = g and df/db = sum g = s; the sum of squares has the gradient 2 u (2 g + 2 s).
    u, r = upstream.numpy().astype(np.float64), np.maximum(values.numpy().astype(np.float64), 0)
    g = 2 * u * r
    expected = 2 * u * (r > 0) * (2 * g + 2 * g.sum(0))
    np.testing.assert_allclose(of_values.numpy().astype(np.float64), expected, rtol=0.05, atol=0.1)
    np.testing.assert_allclose(of_bias.numpy().astype(np.float64), expected.sum(0), rtol=0.05, atol=0.3)


def test_shapes_that_differ_are_refused():
    ops = library.load()
    with pytest.raises(tf.errors.InvalidArgumentError, match="one shape"):
        ops.tfps_relu_bias_grad(upstream=tf.zeros([2, 3], tf.bfloat16), results=tf.zeros([3, 2], tf.bfloat16))
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least one dimension"):
        ops.tfps_relu_bias_grad(upstream=tf.zeros([], tf.bfloat16), results=tf.zeros([], tf.bfloat16))
    with pytest.raises(ValueError, match="must be equal"):
        tf.function(
            lambda: ops.tfps_relu_bias_grad(upstream=tf.zeros([2], tf.bfloat16), results=tf.zeros([3], tf.bfloat16))
        )()
