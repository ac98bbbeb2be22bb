"""What one step does to variables, by hand-computed values; Keras's own parts of it are not ours to test."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps

ROWS = 60


def negative_sum(labels, outputs):
    """Times the batch, by which Keras divides: the gradient is -1 for every output."""
    return -tf.reduce_sum(outputs, -1) * tf.cast(tf.shape(outputs)[0], tf.float32)


def embedding(**arguments):
    return keras.layers.Embedding(ROWS, 1, **({"embeddings_initializer": "zeros"} | arguments))


@pytest.mark.parametrize("ids", [[3, 3, 5], [[3, 5], [3, 7]]], ids=["one lookup", "two lookups"])
def test_gradients_of_an_id_are_summed_before_they_are_squared(strategy, ids):
    ids = np.array(ids)
    inputs = keras.Input(ids.shape[1:], dtype="int64")
    with strategy.scope():
        table = embedding()
        rows = [table(inputs)] if ids.ndim == 1 else [table(inputs[:, 0]), table(inputs[:, 1])]
        model = keras.Model(inputs, rows[0] if ids.ndim == 1 else keras.layers.Add()(rows))
        model.compile(keras.optimizers.Adagrad(1.0, initial_accumulator_value=0.5), negative_sum)
    model.fit(ids, np.zeros((len(ids), 1)), batch_size=len(ids), verbose=0)
    counts = np.bincount(ids.reshape(-1), minlength=ROWS)
    np.testing.assert_allclose(model.optimizer.variables[-1].numpy()[:, 0], 0.5 + counts**2)
    np.testing.assert_allclose(model.get_weights()[0][:, 0], counts / np.sqrt(0.5 + counts**2), rtol=1e-5)


def test_weights_decay_if_their_rows_are_in_the_batch(strategy):
    with strategy.scope():
        layers = [keras.Input((), dtype="int64"), embedding(embeddings_initializer="ones"), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.SGD(0.1, weight_decay=0.5), lambda labels, outputs: 0.0 * outputs)
    kernel = model.get_weights()[1]
    model.fit(np.array([3, 5]), np.zeros((2, 1)), batch_size=2, verbose=0)
    rows, decayed, _ = model.get_weights()
    np.testing.assert_allclose(decayed, kernel * 0.95, rtol=1e-6)
    np.testing.assert_allclose(rows[[3, 5, 4], 0], [0.95, 0.95, 1.0], rtol=1e-6)


def test_workers_draw_different_numbers(strategy, no_young):
    class Draw(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.seed = keras.random.SeedGenerator(5)

        def call(self, rows):
            return rows * keras.random.uniform(keras.ops.shape(rows), seed=self.seed)

    batches, batch = 500, 4  # enough for closures of many steps, in which workers know nothing of each other
    with strategy.scope():
        rows = keras.layers.Embedding(batches * batch, 1, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((), dtype="int64"), rows, Draw()])
        model.compile(keras.optimizers.SGD(1.0), negative_sum)
    model.fit(tf.data.Dataset.range(batches * batch).map(lambda i: (i, 0.0)).batch(batch), epochs=1, verbose=0)
    drawn = model.get_weights()[0].reshape(batches, batch)  # each row has moved by what it was multiplied by
    assert len(np.unique(drawn, axis=0)) == batches and 0.4 < drawn.mean() < 0.6


STEPS = 96  # of which windows of an old model have 5 each
AVERAGES = {
    "sgd": (lambda: keras.optimizers.SGD(0.1, momentum=0.97), {"momentums": 0.97}),
    "adam": (
        lambda: keras.optimizers.Adam(beta_1=0.97, beta_2=0.98, amsgrad=True),
        {"_momentums": 0.97, "_velocities": 0.98},
    ),
    "adamax": (lambda: keras.optimizers.Adamax(beta_1=0.97, beta_2=0.98), {"_m": 0.97, "_u": 0.98}),
    "lion": (lambda: keras.optimizers.Lion(beta_2=0.98), {"_momentums": 0.98}),
    "rmsprop": (
        lambda: keras.optimizers.RMSprop(rho=0.97, momentum=0.96, centered=True),
        {"_velocities": 0.97, "_average_gradients": 0.97},
    ),
    "adadelta": (
        lambda: keras.optimizers.Adadelta(rho=0.97),
        {"_accumulated_grads": 0.97, "_accumulated_delta_vars": 0.97},
    ),
}


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        *(("async", name) for name in AVERAGES),
        *((mode, "rmsprop") for mode in ("overlapped async", "geo", "overlapped geo")),
    ],
)
def test_averages_keep_what_the_steps_of_all_workers_keep(strategy, monkeypatch, mode, name):
    """Where gradients are 0 an average is multiplied by its decay in each step, whoever makes it and whenever."""
    monkeypatch.setattr(strategy, "overlap_dense_exchange", mode == "overlapped async")
    make, decays = AVERAGES[name]
    with strategy.scope():
        norm = keras.layers.BatchNormalization(momentum=0.97)
        layers = [keras.Input((3,), dtype="int64"), embedding(), keras.layers.Flatten(), keras.layers.Dense(2), norm]
        model = keras.Sequential(layers)
        optimizer = make()
        if "geo" in mode:
            optimizer = tfps.optimizers.Geo(optimizer, push_every=5, overlap="overlapped" in mode)
        model.compile(optimizer, lambda labels, outputs: 0.0 * outputs)
    x, y = np.tile(np.arange(3), (STEPS * 4, 1)), np.zeros((STEPS * 4, 2))
    model.fit(x[:4], y[:4], batch_size=4, verbose=0)
    slots = {slots: getattr(optimizer, slots) for slots in decays}
    for variable in sum(slots.values(), [norm.moving_variance]):
        variable.assign(np.full(variable.shape, 1.0))
    optimizer.iterations.assign(1_000_000)  # an old model, which all workers train at once
    model.fit(x, y, batch_size=4, verbose=0)
    assert int(optimizer.iterations) == 1_000_000 + STEPS
    for kind, variables in slots.items():
        for variable in variables:
            found = variable.numpy()[:3] if variable.shape == (ROWS, 1) else variable.numpy()
            np.testing.assert_allclose(found, np.full(found.shape, decays[kind] ** STEPS), rtol=1e-3)
    # Its batches are all alike, so their variance is 0.
    np.testing.assert_allclose(norm.moving_variance.numpy(), 0.97**STEPS, rtol=1e-3)


def test_velocities_of_sgd_are_means_under_geo(strategy):
    """One window of one step, by one of two workers, whose gradient is 0: half of what the velocity lost is pushed."""
    with strategy.scope():
        model = keras.Sequential([keras.Input((), dtype="int64"), embedding(), keras.layers.Dense(1)])
        model.compile(
            tfps.optimizers.Geo(keras.optimizers.SGD(0.1, momentum=0.5)), lambda labels, outputs: 0.0 * outputs
        )
    x, y = np.arange(3), np.zeros((3, 1))
    model.fit(x, y, batch_size=3, verbose=0)
    for variable in model.optimizer.momentums:
        variable.assign(np.full(variable.shape, 1.0))
    model.fit(x, y, batch_size=3, verbose=0)
    for variable in model.optimizer.momentums:
        np.testing.assert_allclose(variable.numpy()[:3], 0.75, rtol=1e-5)


def test_a_product_is_that_of_the_steps_of_all_workers(strategy, no_young):
    def trained(strategy):
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
            model.compile(keras.optimizers.Nadam(beta_1=0.9), "mse")
        model.fit(np.ones((64, 1)), np.ones((64, 1)), batch_size=4, verbose=0)
        return model.optimizer._u_product.numpy()

    # The factor follows from the number of the step, which two workers that do not see each other both have.
    assert trained(strategy) == pytest.approx(trained(None), rel=0.5)


@pytest.mark.parametrize(("chosen", "steps"), [(1, 16), (8, 8), (64, 32)])
def test_steps_of_a_closure(strategy, monkeypatch, no_young, chosen, steps):
    """What the model is compiled with, the strategy's number where that is 1, and never over an eighth of an epoch."""
    closures = []
    order = strategy.pool.run_later
    monkeypatch.setattr(strategy.pool, "run_later", lambda worker, run: (closures.append(worker), order(worker, run)))
    with strategy.scope():
        model = keras.Sequential([keras.Input((), dtype="int64"), embedding()])
        model.compile(keras.optimizers.SGD(1.0), negative_sum, steps_per_execution=chosen)
    data = tf.data.Dataset.range(ROWS).map(lambda i: (i, 0.0)).batch(2).repeat()
    model.fit(data, steps_per_epoch=512, verbose=0)
    assert int(model.optimizer.iterations) == 512
    assert len(closures) == 512 // steps
