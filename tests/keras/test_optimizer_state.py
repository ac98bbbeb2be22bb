"""Slots and counters of every optimizer with two workers, weights averaged by optimizers, and scaled losses."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps

NAMES = "SGD RMSprop Adam AdamW Adadelta Adagrad Adamax Adafactor Nadam Ftrl Lion Lamb Muon"
OPTIMIZERS = {name: getattr(keras.optimizers, name) for name in NAMES.split() if hasattr(keras.optimizers, name)}
SQUARES = (
    "_velocities _velocity_hats _accumulators _accumulated_grads _accumulated_delta_vars _u _v _r _c adam_velocities"
)


class Each(keras.Model):
    """A layer and an optimizer of each class; a step trains all of them, and averages batches."""

    def __init__(self):
        super().__init__()
        self.optimizers_of_layers = [make(0.01) for make in OPTIMIZERS.values()]
        self.dense = [keras.layers.Dense(3) for _ in OPTIMIZERS]
        self.norm = keras.layers.BatchNormalization(momentum=0.9)
        for layer in [*self.dense, self.norm]:
            layer.build((None, 2))

    def call(self, x):
        return self.norm(x)

    def train_step(self, data):
        x, scale = data
        self.norm(x, training=True)
        for layer, optimizer in zip(self.dense, self.optimizers_of_layers, strict=True):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(x)) * tf.reduce_mean(scale)
            weights = layer.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"own": 0.0}


def test_no_optimizer_has_an_impossible_state(strategy):
    """From large squares to gradients of 0: where workers added their differences, the sums would be below 0."""
    with strategy.scope():
        model = Each()
        model.compile("sgd")
        for layer, optimizer in zip(model.dense, model.optimizers_of_layers, strict=True):
            optimizer.build(layer.trainable_variables)
        model.optimizer.iterations.assign(1_000_000)  # an old model, which all workers train at once
    squares = [
        (name, slot)
        for name, optimizer in zip(OPTIMIZERS, model.optimizers_of_layers, strict=True)
        for attribute in SQUARES.split()
        for slot in getattr(optimizer, attribute, None) or []
        if slot is not None and slot.dtype == "float32"
    ]
    for _, slot in [*squares, ("", model.norm.moving_variance)]:
        slot.assign(np.full(slot.shape, 100.0))
    model.fit(np.ones((4 * 64, 2)), np.zeros(4 * 64), batch_size=4, verbose=0)
    for name, optimizer in zip(OPTIMIZERS, model.optimizers_of_layers, strict=True):
        assert int(optimizer.iterations) == 64, name
    for name, slot in squares:
        assert np.isfinite(slot.numpy()).all() and slot.numpy().min() >= 0, (name, slot.path)
    assert len({name for name, _ in squares}) >= 9
    assert all(np.isfinite(weights).all() for weights in model.get_weights())
    # No optimizer counts the steps of this average: the compiled one is never applied.
    np.testing.assert_allclose(model.norm.moving_variance.numpy(), 100 * 0.9**64, rtol=1e-2)


@pytest.mark.parametrize("mode", ["async", "geo", "sync"])
def test_averaged_weights_of_two_workers(strategy, mode):
    """The weights rest, so the average comes nearer by its momentum in every step, whoever makes it."""
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        optimizer = keras.optimizers.SGD(0.0, use_ema=True, ema_momentum=0.95)
        if mode != "async":
            optimizer = {"geo": tfps.optimizers.Geo, "sync": tfps.optimizers.Sync}[mode](optimizer)
        model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    optimizer.iterations.assign(1_000_000)
    average, kernel = optimizer._model_variables_moving_average[0], model.get_weights()[0]
    average.assign(kernel + 1.0)
    model.fit(np.ones((256, 2)), np.ones((256, 1)), batch_size=4, verbose=0)
    steps = int(optimizer.iterations) - 1_000_000
    assert steps == (32 if mode == "sync" else 64)
    np.testing.assert_allclose(average.numpy() - kernel, 0.95**steps, rtol=1e-2)


def scaled(scope, mode, table):
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with scope:
            first = keras.layers.Embedding(40, 4) if table else keras.layers.Dense(4)
            model = keras.Sequential([keras.Input(() if table else (1,), dtype="int64" if table else None), first])
            model.add(keras.layers.Dense(1))
            optimizer = keras.optimizers.Adagrad(0.1)
            if mode != "async":
                optimizer = {"geo": tfps.optimizers.Geo, "sync": tfps.optimizers.Sync}[mode](optimizer)
            model.compile(optimizer, "mse")
        ids = np.concatenate([np.random.default_rng(i).permutation(40)[:8] for i in range(32)])
        # Losses of about 100, so a few batches are skipped until the scale fits in float16.
        x, y = ids if table else ids[:, None] / 40.0, (ids % 7 + 10).astype("float32")
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    return model


def trained(model):
    # Before Keras 3.9, the optimizer that scales the loss does not count.
    return int(model.optimizer.inner_optimizer.iterations)


@pytest.mark.parametrize(
    ("mode", "table"),
    [
        ("async", True),
        pytest.param("async", False, marks=pytest.mark.slow),
        ("geo", True),
        pytest.param("sync", True, marks=pytest.mark.slow),
    ],
)
def test_a_scaled_loss_trains_in_its_mode(one_worker, mode, table):
    ours, theirs = scaled(one_worker.scope(), mode, table), scaled(contextlib.nullcontext(), "async", table)
    modes = {"async": "Asynchronous", "geo": "Geo", "sync": "Synchronous"}
    assert type(ours.train_function.mode).__name__ == modes[mode]
    assert float(ours.optimizer.dynamic_scale) == float(theirs.optimizer.dynamic_scale) < 2.0**15
    assert trained(ours) == trained(theirs) < 32
    for left, right in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_the_scale_is_one_value_of_the_job(strategy, mode):
    model = scaled(strategy.scope(), mode, True)
    scale = float(model.optimizer.dynamic_scale)
    assert 2.0**5 <= scale < 2.0**15 and np.log2(scale) == int(np.log2(scale))
    assert 0 < trained(model) < 32
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


class Overwritten(keras.layers.Layer):
    """The gradient of its variable is the new value, as for the scales of a float8 layer."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(2,), initializer="ones", dtype="float32")
        self.scale.overwrite_with_gradient = True

    def call(self, inputs):
        @tf.custom_gradient
        def same(inputs, scale):
            return tf.identity(inputs), lambda upstream: (upstream, tf.constant([3.0, 5.0]))

        return same(inputs, tf.convert_to_tensor(self.scale))


@pytest.mark.parametrize("mode", ["async", "geo", "sync"])
def test_a_gradient_that_is_the_new_value_is_not_scaled(strategy, mode):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with strategy.scope():
            model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), Overwritten(), keras.layers.Dense(1)])
            optimizer = keras.optimizers.Adam(1e-3)
            if mode != "async":
                optimizer = {"geo": tfps.optimizers.Geo, "sync": tfps.optimizers.Sync}[mode](optimizer)
            model.compile(optimizer, "mse")
        model.fit(np.ones((32, 2)), np.ones((32, 1)), batch_size=4, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(model.layers[1].scale.numpy(), [3.0, 5.0], rtol=1e-6)
