"""Random numbers: every step draws new ones, on any worker; one worker draws those of one process."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.keras._compat import global_generator, set_global_generator

STEPS = 12
ONES = np.ones((2 * STEPS, 3), np.float32)
NUMBERS = np.repeat(np.arange(STEPS), 2).astype("int32")
BEFORE = keras.random.SeedGenerator(5)
"""Made before the process connects to a cluster."""


class Drawn(keras.metrics.Metric):
    """Adds up what each step drew, by the number of the step: float [STEPS, 3]."""

    def __init__(self):
        super().__init__()
        self.rows = self.add_weight(shape=(STEPS, 3), name="rows", initializer="zeros")

    def update_state(self, number, noise):
        number = keras.ops.reshape(number, (-1,))[0]
        self.rows.assign_add(keras.ops.one_hot(number, STEPS)[:, None] * noise[:1])

    def result(self):
        return keras.ops.sum(self.rows)


class Noise(keras.layers.Layer):
    """Adds normal noise from its own generator, Keras's global one, one made outside the scope, or TensorFlow's."""

    def __init__(self, source, outside=None):
        super().__init__()
        self.source = source
        self.seed = keras.random.SeedGenerator(7) if source == "own" else outside if source == "outside" else None

    def call(self, x):
        if self.source == "tf":
            return x + tf.random.normal(tf.shape(x))
        if self.source == "tf with a seed":
            return x + tf.random.normal(tf.shape(x), seed=9)
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seed)


class Model(keras.Model):
    """Every step tells the metric what it drew, and trains one weight."""

    @property
    def metrics(self):
        return [self.drawn]

    def train_step(self, data):
        x, number = data[:2]
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(self.weight * 1.0)
        self.optimizer.apply([*tape.gradient(loss, [self.weight])], [self.weight])
        return self.test_step(data)

    def test_step(self, data):
        x, number = data[:2]
        self.drawn.update_state(number, self(x) - x)
        return {"drawn": self.drawn.result()}


def set_random_seed():
    keras.utils.set_random_seed(3)
    # Not every version of Keras does this itself.
    set_global_generator(None)


def make(strategy, source, mode="async"):
    set_random_seed()
    outside = keras.random.SeedGenerator(5)
    modes = {"sync": tfps.optimizers.Sync, "geo": tfps.optimizers.Geo}
    with strategy.scope() if strategy else contextlib.nullcontext():
        inputs = keras.Input((3,))
        model = Model(inputs, Noise(source, outside)(inputs))
        model.weight = model.add_weight(shape=(1,), name="weight")
        model.drawn, model.outside = Drawn(), outside
        optimizer = keras.optimizers.SGD(0.1)
        model.compile(modes.get(mode, lambda given: given)(optimizer) if strategy else optimizer)
    return model


class Keep(keras.callbacks.Callback):
    """Keeps what each epoch, or each evaluation, drew."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def on_epoch_end(self, epoch, logs=None):
        self.kept.append(self.model.drawn.rows.numpy())

    def on_test_end(self, logs=None):
        self.kept.append(self.model.drawn.rows.numpy())


def loops(model):
    """Trains two epochs, evaluates twice, and predicts three times; returns the draws of all steps."""
    keep = Keep()
    given = dict(batch_size=2, verbose=0, callbacks=[keep])
    model.fit(ONES, NUMBERS, epochs=2, shuffle=False, **given)
    for _ in range(2):
        model.evaluate(ONES, NUMBERS, **given)
    predicted = [model.predict(ONES[:8], batch_size=2, verbose=0)[::2] - 1 for _ in range(2)]
    predicted.append(model.predict_on_batch(ONES[:2])[:1] - 1)
    return np.concatenate([*keep.kept, *predicted])


def distinct(draws):
    return len({np.round(draw, 4).tobytes() for draw in draws})


@pytest.mark.parametrize("source", ["own", "global", "tf with a seed"])
def test_one_worker_draws_the_numbers_of_one_process(one_worker, source):
    ours, theirs = (loops(make(strategy, source)) for strategy in (one_worker, None))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "mode"),
    [("own", "async"), ("global", "async"), ("tf with a seed", "async"), ("global", "sync"), ("outside", "geo")],
)
def test_no_two_steps_draw_the_same(strategy, source, mode):
    draws = loops(make(strategy, source, mode))
    assert len(draws) == 4 * STEPS + 2 * 4 + 1
    assert distinct(draws) == len(draws)


@pytest.mark.parametrize("source", ["own", "global", "outside"])
def test_single_batches_draw_the_numbers_of_one_process(strategy, source):
    def draws(scope):
        model = make(scope, source)
        found = []
        for _ in range(2):
            for run in (model.train_on_batch, model.test_on_batch):
                model.reset_metrics()
                run(ONES[:2], NUMBERS[:2])
                found.append(model.drawn.rows.numpy()[0])
        # Steps and eager code continue one sequence.
        found += [keras.random.normal((3,)).numpy(), keras.random.normal((3,), seed=model.outside).numpy()]
        return np.stack(found)

    np.testing.assert_allclose(draws(strategy), draws(None), atol=1e-5)


def test_a_generator_from_before_the_cluster_begins_with_its_seed(strategy):
    set_random_seed()
    with strategy.scope():
        inputs = keras.Input((3,))
        model = keras.Model(inputs, Noise("outside", BEFORE)(inputs))
    drawn = model.predict(ONES[:4], batch_size=2, verbose=0) - 1
    seed = keras.random.SeedGenerator(5)
    np.testing.assert_allclose(drawn[:2], keras.random.normal((2, 3), seed=seed), atol=1e-6)
    np.testing.assert_allclose(drawn[2:], keras.random.normal((2, 3), seed=seed), atol=1e-6)


def test_contributions_from_the_same_values_draw_other_numbers(strategy):
    with strategy.scope():
        model = make(strategy, "own")
        model.compile(tfps.optimizers.Sync(keras.optimizers.SGD(0.1), max_staleness=2))
    keep = Keep()
    model.fit(ONES, NUMBERS, batch_size=2, epochs=1, shuffle=False, verbose=0, callbacks=[keep])
    assert distinct(keep.kept[0]) == STEPS


def test_the_global_generator_outlives_its_use_in_a_scope(strategy):
    set_random_seed()
    with strategy.scope():
        keras.random.normal((2,))
    found = keras.random.normal((2,)).numpy()
    set_random_seed()
    keras.random.normal((2,))
    np.testing.assert_array_equal(found, keras.random.normal((2,)).numpy())
    assert "chief" in global_generator().state._value.device or "localhost" in global_generator().state._value.device


def test_models_that_draw_nothing_push_nothing_when_they_are_evaluated(strategy):
    from tfps.training.exchange import Exchange

    pushed, send = [], Exchange.send
    with strategy.scope():
        inputs = keras.Input((4,), dtype="int64")
        rows = keras.layers.Dropout(0.5)(keras.layers.Embedding(50, 4)(inputs))
        hidden = keras.layers.BatchNormalization()(
            keras.layers.GRU(3)(keras.layers.LSTM(3, return_sequences=True)(rows))
        )
        model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
        model.compile("adam", "mse")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Exchange, "send", lambda self, *args, **kwargs: pushed.append(self) or send(self, *args, **kwargs)
        )
        model.evaluate(np.ones((8, 4), int), np.ones((8, 1)), batch_size=2, verbose=0)
        model.predict(np.ones((8, 4), int), batch_size=2, verbose=0)
    assert not pushed and not model.predict_function._assigns
