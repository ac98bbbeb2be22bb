"""apply_dense: whole variables are updated as their rows would be, and in both of its forms alike."""

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.test_apply_rows import CASES, hyper_of, keras_steps, variables_of
from tfps.errors import ConfigError
from tfps.ops.apply_dense import apply_dense
from tfps.ops.row_rules import ROW_RULES

RATE = 0.05
SHAPES = [(), (1,), (63,), (64,), (65,), (7, 129), (3, 5, 11)]


def steps(rule, settings, variables, gradients):
    for step, of_step in enumerate(gradients, start=1):
        handles = [[variable.handle for variable in group] for group in variables]
        hyper = tf.constant(hyper_of(rule, settings, step), tf.float32)
        apply_dense(rule, handles, [tf.constant(gradient) for gradient in of_step], hyper)


@pytest.mark.parametrize("name", [name for name in CASES if ROW_RULES[name].elementwise])
def test_equals_keras(way, rng, name):
    make, settings = CASES[name]
    values = [np.asarray(rng.normal(size=shape), np.float32) for shape in SHAPES]
    gradients = [[np.asarray(rng.normal(size=shape), np.float32) for shape in SHAPES] for _ in range(4)]
    variables = [variables_of(make(RATE, **settings), value) for value in values]
    steps(ROW_RULES[name], settings, variables, gradients)
    for i, group in enumerate(variables):
        expected = keras_steps(make(RATE, **settings), values[i], [of_step[i] for of_step in gradients])
        for variable, wanted in zip(group, expected, strict=True):
            np.testing.assert_allclose(variable.numpy(), wanted, rtol=2e-4, atol=2e-5)


def test_a_value_that_was_read_before_does_not_change(way):
    variable, slot = tf.Variable(tf.ones([100])), tf.Variable(tf.ones([100]))
    before = variable.read_value(), slot.read_value()
    hyper = tf.constant([0.5, 1e-7, 0.0])
    apply_dense(ROW_RULES["adagrad"], [[variable.handle, slot.handle]], [tf.ones([100])], hyper)
    for value in before:
        np.testing.assert_array_equal(value, np.ones(100))
    np.testing.assert_array_equal(slot.numpy(), np.full(100, 2.0))


def test_a_large_variable_is_shared_out_over_threads(way, rng):
    value, gradient = rng.normal(size=[2, 3_000_017]).astype(np.float32)
    variable = tf.Variable(value)
    apply_dense(ROW_RULES["sgd"], [[variable.handle]], [tf.constant(gradient)], tf.constant([0.25, 0.0]))
    np.testing.assert_allclose(variable.numpy(), value - np.float32(0.25) * gradient, rtol=1e-6, atol=1e-6)


def test_missing_slots_are_named(way):
    with pytest.raises(ConfigError, match=r"accumulator.*Received: 1"):
        apply_dense(
            ROW_RULES["adagrad"], [[tf.Variable(1.0).handle]], [tf.constant(1.0)], tf.constant([0.5, 1e-7, 0.0])
        )


def test_what_does_not_fit_is_refused(monkeypatch):
    monkeypatch.delenv("TFPS_DISABLE_OPS", raising=False)
    variable = tf.Variable(tf.ones([4]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="gradient's shape"):
        apply_dense(ROW_RULES["sgd"], [[variable.handle]], [tf.ones([5])], tf.constant([1.0, 0.0]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be 2 numbers"):
        apply_dense(ROW_RULES["sgd"], [[variable.handle]], [tf.ones([4])], tf.constant([1.0, 0.0, 0.0]))
    np.testing.assert_array_equal(variable.numpy(), np.ones(4))
