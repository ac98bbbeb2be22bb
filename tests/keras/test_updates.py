"""What one step does to variables, by hand-computed values; Keras's own parts of it are not ours to test."""

import keras
import numpy as np
import pytest
import tensorflow as tf

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


def test_workers_draw_different_numbers(strategy):
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


@pytest.mark.parametrize("momentum", [0.9, 0.99])
def test_a_moving_average_is_pushed_in_part_where_workers_would_overshoot(strategy, momentum):
    with strategy.scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization(momentum=momentum)])
        model.compile("sgd", "mse")
    batch = np.full((4, 1), 5.0), np.zeros((4, 1))
    model.fit(tf.data.Dataset.from_tensors(batch).repeat(), steps_per_epoch=1, verbose=0)
    together = strategy.num_workers * (1 - momentum**strategy.dense_exchange_every)
    moved = (1 - momentum) * 5.0 / max(1.0, together)
    assert model.layers[0].moving_mean.numpy()[0] == pytest.approx(moved, rel=1e-5)
    model.train_on_batch(*batch)  # a step by itself overshoots nothing
    assert model.layers[0].moving_mean.numpy()[0] == pytest.approx(moved + (1 - momentum) * (5.0 - moved), rel=1e-5)
    assert (together > 1) == (momentum == 0.9), "one of each"


@pytest.mark.parametrize(("chosen", "steps"), [(1, 16), (8, 8), (64, 32)])
def test_steps_of_a_closure(strategy, monkeypatch, chosen, steps):
    """What the model is compiled with, the strategy's number where that is 1, and never over an eighth of an epoch."""
    closures = []
    order = strategy.pool.order
    monkeypatch.setattr(strategy.pool, "order", lambda worker, run: (closures.append(worker), order(worker, run)))
    with strategy.scope():
        model = keras.Sequential([keras.Input((), dtype="int64"), embedding()])
        model.compile(keras.optimizers.SGD(1.0), negative_sum, steps_per_execution=chosen)
    data = tf.data.Dataset.range(ROWS).map(lambda i: (i, 0.0)).batch(2).repeat()
    model.fit(data, steps_per_epoch=512, verbose=0)
    assert int(model.optimizer.iterations) == 512
    assert len(closures) == 512 // steps
