"""Eager steps and eager code on the chief, for debugging: they do what one process does, and only rows cross."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.keras.test_custom_models import assert_alike, here
from tfps.embedding.table import Table
from tfps.errors import IdRangeError, UnsupportedError

ROWS = 48
# Every row once in each batch of 24 examples: no row rests, and no id repeats.
IDS = np.concatenate([np.random.default_rng(seed).permutation(ROWS).reshape(-1, 2) for seed in range(3)])
LABELS = (IDS.sum(1, keepdims=True) % 3).astype("float32")
BATCHES = [(tf.constant(IDS[i : i + 24]), tf.constant(LABELS[i : i + 24])) for i in range(0, len(IDS), 24)]
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "clipped": lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.1),
    "decayed": lambda: keras.optimizers.SGD(0.1, weight_decay=0.01),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "adadelta": lambda: keras.optimizers.Adadelta(1.0),
    "adam": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "adamax": lambda: keras.optimizers.Adamax(0.01),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, centered=True),
    "ftrl": lambda: keras.optimizers.Ftrl(0.1),
}


@pytest.fixture(autouse=True)
def no_whole_table(monkeypatch, request):
    """Only rows cross: no step reads a table whole unless the model does."""
    if "whole" in request.node.name:
        return
    whole = Table.__tf_tensor__

    def refuse(table, dtype=None, name=None):
        assert not tf.executing_eagerly(), f"{table} was read whole"
        return whole(table, dtype, name)

    monkeypatch.setattr(Table, "__tf_tensor__", refuse)


def make_model(strategy, optimizer="sgd", **settings):
    with here(strategy):
        inputs = keras.Input((2,), dtype="int64")
        rows = keras.layers.Flatten()(keras.layers.Embedding(ROWS, 4)(inputs))
        hidden = keras.layers.Dense(8, activation="relu", kernel_regularizer="l2")(rows)
        hidden = keras.layers.Dropout(0.2, seed=1)(keras.layers.BatchNormalization()(hidden))
        model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
        model.compile(optimizer, "mse", metrics=["mae"], **{"run_eagerly": True} | settings)
    return model


def use(model):
    """Calls everything that runs steps; returns what comes back, and the weights."""
    fit = {"batch_size": 24, "epochs": 2, "shuffle": False, "verbose": 0, "validation_data": (IDS[:10], LABELS[:10])}
    history = model.fit(IDS, LABELS, **fit).history
    single = model.train_on_batch(IDS[:8], LABELS[:8]), model.test_on_batch(IDS[:8], LABELS[:8])
    whole = model.evaluate(IDS, LABELS, batch_size=40, verbose=0)
    outputs = model.predict(IDS, batch_size=40, verbose=0), model.predict_on_batch(IDS[:5])
    return [*map(np.array, history.values()), *map(np.array, single), np.array(whole), *outputs, *model.get_weights()]


# Keras 3.6 itself fails where the last execution has fewer steps.
WHOLE_EXECUTIONS = keras.__version__.startswith("3.6.")


@pytest.mark.parametrize(
    "steps_per_execution", [1, pytest.param(2, marks=pytest.mark.skipif(WHOLE_EXECUTIONS, reason="this Keras fails"))]
)
def test_steps_are_those_of_one_process(strategy, steps_per_execution):
    assert_alike(strategy, lambda scope: use(make_model(scope, steps_per_execution=steps_per_execution)))


def test_all_functions_run_eagerly(strategy):
    """`tf.config.run_functions_eagerly(True)` does what `run_eagerly=True` does."""
    tf.config.run_functions_eagerly(True)
    try:
        assert_alike(strategy, lambda scope: use(make_model(scope, run_eagerly=False)))
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("mode", [tfps.optimizers.Geo, tfps.optimizers.Sync])
def test_a_mode_has_no_effect(strategy, mode):
    def train(scope):
        model = make_model(scope, mode(keras.optimizers.SGD(0.1)) if scope else keras.optimizers.SGD(0.1))
        history = model.fit(IDS, LABELS, batch_size=24, shuffle=False, verbose=0).history
        assert set(history) == {"loss", "mae"}
        return [*map(np.array, history.values()), *model.get_weights()]

    assert_alike(strategy, train)


class Debugged(keras.Model):
    """Its code needs values: it cannot be traced."""

    def __init__(self):
        super().__init__()
        self.table, self.kernel = keras.layers.Embedding(ROWS, 4), keras.layers.Dense(1)
        self.losses_seen = []

    def call(self, ids):
        assert 0 <= ids.numpy().min() <= ids.numpy().max() < ROWS
        return self.kernel(keras.ops.reshape(self.table(ids), (-1, 8)))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        print("loss", loss.numpy(), "rows", gradients[0].values.numpy().shape)
        self.losses_seen.append(float(loss))
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss, "twice": 2 * loss}


def test_a_step_may_print_and_use_values(strategy, capfd):
    def train(scope):
        with here(scope):
            model = Debugged()
            model.compile(keras.optimizers.Adagrad(0.1), "mse", run_eagerly=True)
        data = tf.data.Dataset.from_tensor_slices((IDS, LABELS)).batch(24)
        once = model.fit(data, epochs=2, verbose=0).history
        # A pass is a pass, and the second epoch goes on where the first one ended.
        endless = model.fit(data.repeat(), epochs=2, steps_per_epoch=2, verbose=0).history
        assert len(model.losses_seen) == 10
        logs = [*once.values(), *endless.values()]
        return [model.losses_seen, *logs, model.predict(data, verbose=0), *model.get_weights()]

    assert_alike(strategy, train)
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 20 and lines[0].endswith(f"({ROWS}, 4)")


def test_steps_may_change_between_eager_and_traced(one_worker):
    def train(scope):
        model = make_model(scope)
        results = []
        for eager in (True, False, True):
            model.run_eagerly = eager
            if not scope:
                model.make_train_function(force=True)  # Keras by itself keeps the one that it has
            results += [model.fit(*BATCHES[0], batch_size=24, shuffle=False, verbose=0).history["loss"]]
            results += [model.predict(IDS, verbose=0)]
        return [*results, *model.get_weights()]

    assert_alike(one_worker, train)


def test_it_says_once_that_it_is_slow(strategy, caplog):
    model = make_model(strategy)
    with caplog.at_level(logging.WARNING, "tfps"):
        for _ in range(2):
            model.fit(IDS, LABELS, verbose=0)
            model.predict(IDS, verbose=0)
    assert [record.getMessage() for record in caplog.records if "slow" in record.getMessage()] == [
        f"run_eagerly=True: the steps of model {model.name!r} run on the chief, one at a time, and no worker trains. "
        "This is for debugging, and slow."
    ]


def test_the_regularizer_of_a_table_sees_the_rows_of_the_step(one_worker):
    """As in a traced step, and not the whole table as in one process."""

    def train(eager):
        keras.utils.set_random_seed(3)
        with one_worker.scope():
            table = keras.layers.Embedding(ROWS, 4, embeddings_regularizer="l2")
            model = keras.Sequential([keras.Input((2,), dtype="int64"), table, keras.layers.GlobalAveragePooling1D()])
            model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=eager)
        loss = model.fit(IDS[:5], np.zeros([5, 4]), batch_size=5, verbose=0).history["loss"]
        return [loss, *model.get_weights()]

    for ours, theirs in zip(train(True), train(False), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_an_id_out_of_range_is_named(strategy):
    model = make_model(strategy)
    with pytest.raises(IdRangeError, match="embedding"):
        model.fit(IDS + ROWS, LABELS, verbose=0)


def test_an_optimizer_without_a_row_wise_form_is_refused(strategy):
    """By the first step at the latest: this model has no layers yet when it is compiled."""

    class Lazy(keras.Model):
        def build(self, shape):
            self.table = keras.layers.Embedding(ROWS, 4)

        def call(self, ids):
            return keras.ops.sum(self.table(ids), axis=(1, 2))

    with strategy.scope():
        model = Lazy()
        model.compile(keras.optimizers.Adafactor(), "mse", run_eagerly=True)
    with pytest.raises(UnsupportedError, match="Adafactor"):
        model.fit(IDS, LABELS, verbose=0)


@pytest.mark.parametrize(
    ("name", "traced"), [*((name, False) for name in OPTIMIZERS), *((name, True) for name in ("decayed", "nadam"))]
)
def test_optimizers_applied_by_hand(strategy, name, traced):
    """Code on the chief, outside of `fit` and of `strategy.run`."""

    def train(scope):
        with here(scope):
            layers = [keras.layers.Embedding(ROWS, 4), keras.layers.Flatten(), keras.layers.Dense(1)]
            model = keras.Sequential([keras.Input((2,), dtype="int64"), *layers])
            optimizer = OPTIMIZERS[name]()

            def step(ids, labels):
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(tf.square(model(ids) - labels))
                gradients = tape.gradient(loss, model.trainable_variables)
                optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
                return loss

            run = tf.function(step) if traced else step
            losses = [float(run(*batch)) for batch in BATCHES]
        assert int(optimizer.iterations) == 3
        return [losses, *model.get_weights()]

    assert_alike(strategy, train, rtol=1e-3)


@pytest.mark.parametrize("scheduled", [False, True], ids=["called", "scheduled"])
def test_a_hand_written_step_runs_eagerly(strategy, scheduled):
    """`strategy.run` outside of a function. What a coordinator schedules is traced, even if functions run eagerly."""

    def train(scope):
        with here(scope):
            layers = [keras.layers.Embedding(ROWS, 4), keras.layers.Flatten(), keras.layers.Dense(1)]
            model = keras.Sequential([keras.Input((2,), dtype="int64"), *layers])
            optimizer = keras.optimizers.Adagrad(0.1)

        def replica(ids, labels):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(ids) - labels))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return loss.numpy() if tf.executing_eagerly() else loss

        def step(*batch):
            return scope.run(replica, args=batch) if scope else replica(*batch)

        if not scope or not scheduled:
            losses = [float(step(*batch)) for batch in BATCHES]
        else:
            coordinator, function = tf.distribute.coordinator.ClusterCoordinator(scope), tf.function(step)
            losses = [coordinator.schedule(function, batch).fetch() for batch in BATCHES]
        return [losses, *model.get_weights()]

    tf.config.run_functions_eagerly(scheduled)
    try:
        assert_alike(strategy, train)
    finally:
        tf.config.run_functions_eagerly(False)


def test_bags_have_gradients_on_the_chief(strategy):
    def train(scope):
        with here(scope):
            inputs = [keras.Input((2,), dtype="int64"), keras.Input((2,))]
            bags = tfps.layers.EmbeddingBag(ROWS, 4, combiner="mean")(*inputs)
            model = keras.Model(inputs, keras.layers.Dense(1)(bags))
        weights = tf.Variable(np.linspace(0.5, 2, 48).reshape(24, 2).astype("float32"))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model([BATCHES[0][0], weights])))
        table, kernel, _, given = tape.gradient(loss, [*model.trainable_variables, weights])
        return [tf.convert_to_tensor(table), kernel, given]

    assert_alike(strategy, train)


@pytest.mark.parametrize("by_hand", [False, True], ids=["fit", "by hand"])
def test_a_table_that_is_read_whole_has_its_gradient(strategy, by_hand):
    """A tied output layer: the scores of all rows, beside lookups of the same table."""

    class Tied(keras.Model):
        def __init__(self):
            super().__init__()
            self.table = keras.layers.Embedding(ROWS, 4)

        def call(self, ids):
            rows = keras.ops.mean(self.table(ids), axis=1)
            return keras.ops.matmul(rows, keras.ops.transpose(self.table.embeddings))

    def train(scope):
        with here(scope):
            model = Tied()
            model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
        if not by_hand:
            loss = model.fit(IDS, IDS[:, 0], batch_size=24, shuffle=False, verbose=0).history["loss"]
            return [loss, *model.get_weights()]
        with tf.GradientTape() as tape:
            loss = model.compute_loss(y=IDS[:, 0], y_pred=model(tf.constant(IDS)))
        return [loss, tf.convert_to_tensor(tape.gradient(loss, model.trainable_variables)[0])]

    assert_alike(strategy, train)
