"""Functional models are built by their outputs, without a call: loss and metrics are those of one process."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfps.keras._compat import functional_outputs

POINTS = np.random.default_rng(0).random((64, 3)).astype("float32")
ONE, PAIRS = POINTS.sum(1), POINTS[:, :2]


def with_outputs(make):
    point = keras.Input((3,))
    return keras.Model(point, make(keras.layers.Dense(1, name="a")(point), keras.layers.Dense(2, name="b")(point)))


BOTH = {"loss": {"a": "mse", "b": "mae"}, "metrics": {"a": ["mae"], "b": ["mse"]}}
CASES = {
    "one": (lambda a, b: a, ONE, {"loss": "mse", "metrics": ["mae"]}),
    "a list of one": (lambda a, b: [a], ONE, {"loss": "mse", "metrics": ["mae"]}),
    "a list": (lambda a, b: [a, b], [ONE, PAIRS], {"loss": ["mse", "mae"], "metrics": [["mae"], ["mse"]]}),
    "a dictionary": (lambda a, b: {"b": b, "a": a}, {"a": ONE, "b": PAIRS}, BOTH),
}


@pytest.mark.parametrize("name", CASES)
def test_logs_are_those_of_one_process(one_worker, name):
    make, labels, compiled = CASES[name]
    histories = []
    for scope in (one_worker.scope, contextlib.nullcontext):
        keras.utils.set_random_seed(1)
        with scope():
            model = with_outputs(make)
            model.compile(keras.optimizers.SGD(0.1), **compiled)
        histories.append(model.fit(POINTS, labels, batch_size=16, epochs=2, shuffle=False, verbose=0).history)
    ours, theirs = histories
    assert ours.keys() == theirs.keys()
    for log in theirs:
        np.testing.assert_allclose(ours[log], theirs[log], rtol=1e-5)


def test_no_call_is_traced_before_the_first_step(strategy):
    calls = []

    class Counting(keras.layers.Layer):
        def call(self, x):
            calls.append(tf.compat.v1.get_default_graph().name)
            return x

    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), Counting(), keras.layers.Dense(1)])
        model.compile("sgd", "mse", metrics=["mae"])
        calls.clear()
        model._maybe_symbolic_build(data_batch=(tf.TensorSpec([None, 3]), tf.TensorSpec([None])))
    assert not calls and model._compile_loss.built and model._compile_metrics.built


def test_models_of_other_classes_are_left_to_keras():
    class Own(keras.Model):
        pass

    point = keras.Input((3,))
    assert functional_outputs(Own(point, keras.layers.Dense(1)(point))) is None
    assert functional_outputs(keras.Sequential([keras.layers.Dense(1)])) is None
