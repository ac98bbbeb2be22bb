"""Models and layers that are made outside the scope train under the strategy from `compile` on."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.strategy.variables import DenseVariable, SeedVariable

ROWS = 40
IDS = np.concatenate([np.random.default_rng(i).permutation(ROWS)[:8] for i in range(16)])
LABELS = (IDS % 7).astype("float32")


def layers():
    table = keras.layers.Embedding(ROWS, 4)
    table.build()
    norm = keras.layers.Normalization()
    norm.adapt(np.random.default_rng(0).normal(3.0, 2.0, (100, 4)))
    return [table, norm, keras.layers.Dropout(0.2), keras.layers.Dense(1)]


def model_of(parts):
    return keras.Sequential([keras.Input((), dtype="int64"), *parts])


def trained(scope, outside):
    keras.utils.set_random_seed(1)
    parts = layers()
    model = model_of(parts) if outside == "model" else None
    with scope:
        model = model or model_of(parts)
        model.compile(keras.optimizers.Adagrad(0.1), "mse", metrics=["mae"])
    model.fit(IDS, LABELS, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize("outside", ["model", "layers"])
def test_what_was_made_outside_trains_as_what_was_made_inside(one_worker, tmp_path, outside):
    ours, theirs = trained(one_worker.scope(), outside), trained(contextlib.nullcontext(), outside)
    assert isinstance(ours.layers[0].embeddings._value, Table)
    assert isinstance(ours.layers[2].seed_generator.state._value, SeedVariable)
    kinds = {type(v._value) for layer in ours.layers for v in layer.weights}
    assert kinds <= {DenseVariable, type(ours.layers[0].embeddings._value), SeedVariable}
    for left, right in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(ours.predict(IDS, verbose=0), theirs.predict(IDS, verbose=0), rtol=1e-3, atol=1e-4)
    ours.save(tmp_path / "m.keras")
    alone = keras.models.load_model(tmp_path / "m.keras")
    for left, right in zip(ours.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_model_that_the_strategy_does_not_know_is_not_fitted_in_its_scope(strategy):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with strategy.scope(), pytest.raises(UnsupportedError, match=r"`model` must be made or compiled inside.*Received"):
        model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)


def test_an_optimizer_made_outside_may_be_built_there_after_compile(strategy):
    optimizer = keras.optimizers.Nadam(0.1)
    with strategy.scope():
        model = keras.Sequential([keras.Input((), dtype="int64"), keras.layers.Embedding(ROWS, 1)])
        model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    model.fit(IDS, LABELS, batch_size=8, verbose=0)
    kinds = [type(variable._value) for variable in optimizer.variables]
    assert set(kinds) == {DenseVariable, type(model.layers[0].embeddings._value)} and len(kinds) == 5


class Held(keras.Model):
    """A step that uses something that is no attribute of the model."""

    def __init__(self, held):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.dense.build((None, 1))
        self.built = True
        self.held = lambda: held

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        x, y = data
        held = self.held()
        weights = self.trainable_variables
        with tf.GradientTape() as tape:
            found = self(x)
            if isinstance(held, keras.layers.Layer):
                found, weights = held(found), [*weights, *held.trainable_variables]
            loss = keras.ops.mean((found - y) ** 2)
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        if isinstance(held, keras.metrics.Metric):
            held.update_state(loss)
        elif isinstance(held, tf.Variable):
            tf.switch_case(tf.constant(0), [lambda: held.assign(0.9 * held + loss), lambda: held.assign(held)])
        return {"own": loss}


@pytest.mark.parametrize("kind", ["metric", "plain variable", "layer"])
def test_what_workers_would_overwrite_for_each_other_is_refused_by_name(strategy, kind):
    held = keras.metrics.Mean(name="aside") if kind == "metric" else keras.layers.Dense(1, name="aside")
    if kind == "layer":
        held.build((None, 1))
    with strategy.scope():
        if kind == "plain variable":
            held = tf.Variable(0.0, name="aside")
        model = Held(held)
        model.compile(tfps.optimizers.Sync("sgd") if kind == "layer" else "sgd")
    rule = "must be made" if kind == "layer" else "aside|total"
    with pytest.raises(UnsupportedError, match=rf"{rule}.*Received: a.*Valid: a Keras variable"):
        model.fit(np.ones((8, 1)), np.ones((8, 1)), verbose=0)


def test_a_layer_that_the_model_does_not_know_is_trained_by_copies(strategy):
    with strategy.scope():
        held = keras.layers.Dense(1)
        held.build((None, 1))
        model = Held(held)
        model.compile("adam")
        model.optimizer.build([*model.trainable_variables, *held.trainable_variables])
    model.fit(np.ones((32, 1)), np.ones((32, 1)), batch_size=4, verbose=0)
    copied = {variable.key for variable in model.train_function.closures.last.program.variables}
    assert {weight._value.key for weight in [*held.weights, *model.optimizer.variables]} <= copied
