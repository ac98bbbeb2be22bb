"""Models as people write them, with steps, optimizers and layers of their own: what one process does with them."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.errors import UnsupportedError

ROWS = 60
IDS = np.random.default_rng(0).integers(0, ROWS, (96, 2))
LABELS = (IDS.sum(1, keepdims=True) % 3).astype("float32")


def here(strategy):
    """A scope, or none for one process."""
    return strategy.scope() if strategy else contextlib.nullcontext()


def assert_alike(strategy, train, rtol=2e-4):
    """What `train(scope)` returns is alike in one process and with one worker."""
    found = []
    for scope in (strategy, None):
        keras.utils.set_random_seed(3)
        found.append(train(scope))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("built", [True, False], ids=["functional", "deferred"])
def test_layers_that_were_frozen_train_once_they_are_thawed(one_worker, built):
    def train(strategy):
        with here(strategy):
            frozen = [keras.layers.Embedding(ROWS, 4, trainable=False), keras.layers.Dense(3, trainable=False)]
            layers = [frozen[0], keras.layers.Flatten(), frozen[1], keras.layers.Dense(1)]
            model = keras.Sequential([*([keras.Input((2,), dtype="int64")] if built else []), *layers])
            model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(IDS, LABELS, batch_size=32, shuffle=False, verbose=0)
        before = [weights.copy() for layer in frozen for weights in layer.get_weights()]
        for layer in frozen:
            layer.trainable = True
        with here(strategy):
            model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(IDS, LABELS, batch_size=32, shuffle=False, verbose=0)
        after = [weights for layer in frozen for weights in layer.get_weights()]
        assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(after, before, strict=True))
        return after

    assert_alike(one_worker, train)


def test_tables_frozen_later_stay_as_they_are(strategy):
    with strategy.scope():
        tables = [keras.layers.Embedding(ROWS, 4) for _ in range(2)]
        inputs = keras.Input((2,), dtype="int64")
        rows = keras.layers.Concatenate()([table(inputs[:, i]) for i, table in enumerate(tables)])
        model = keras.Model(inputs, keras.layers.Dense(1)(rows))
    tables[0].trainable = False
    with strategy.scope():
        model.compile("sgd", "mse")
    before = [table.get_weights()[0] for table in tables]
    model.fit(IDS, LABELS, batch_size=16, verbose=0)
    moved = [np.abs(table.get_weights()[0] - b).max() for table, b in zip(tables, before, strict=True)]
    assert moved[0] == 0 and moved[1] > 1e-4


@pytest.mark.parametrize("mode", ["async", "prefetch", "sync", "geo"])
@pytest.mark.parametrize("words", [False, True], ids=["integers", "strings"])
def test_lookup_layers_in_the_model(one_worker, monkeypatch, words, mode):
    monkeypatch.setattr(one_worker, "prefetch_lookups", mode == "prefetch")
    modes = {"sync": tfps.optimizers.Sync, "geo": tfps.optimizers.Geo}
    names = np.array([f"w{i}" for i in range(ROWS)]) if words else np.arange(1000, 1000 + ROWS)

    def train(strategy):
        with here(strategy):
            inputs = [keras.Input((1,), dtype="string" if words else "int64") for _ in range(2)]
            kind = keras.layers.StringLookup if words else keras.layers.IntegerLookup
            ids = [kind(vocabulary=list(names))(one) for one in inputs]
            rows = [keras.layers.Flatten()(keras.layers.Embedding(ROWS + 1, 4)(one)) for one in ids]
            model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(rows)))
            # Rows that were prefetched miss an update, which is hardly any.
            optimizer = keras.optimizers.SGD(1e-6 if mode == "prefetch" else 0.1)
            model.compile(modes.get(mode, lambda given: given)(optimizer), "mse")
        given = [tf.constant(names[IDS[:, i : i + 1]]) for i in range(2)]
        data = tf.data.Dataset.from_tensor_slices((tuple(given), LABELS)).batch(32)
        model.fit(data, verbose=0)
        return [*model.get_weights(), model.predict(data, verbose=0)]

    assert_alike(one_worker, train)


def test_the_result_of_all_compiled_metrics_may_be_a_log(one_worker):
    class Own(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                found = self(x, training=True)
                loss = self.compute_loss(y=y, y_pred=found)
            self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
            for metric in self.metrics:
                if metric.name == "loss":
                    metric.update_state(loss)
                else:
                    metric.update_state(y, found)
            return {metric.name: metric.result() for metric in self.metrics}

    def train(strategy):
        with here(strategy):
            inputs = keras.Input((2,), dtype="int64")
            rows = keras.layers.Flatten()(keras.layers.Embedding(ROWS, 4)(inputs))
            model = Own(inputs, keras.layers.Dense(1)(rows))
            model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
        history = model.fit(IDS, LABELS, batch_size=32, shuffle=False, verbose=0).history
        if strategy is None and "compile_metrics" in history:  # Keras 3.6 by itself
            history["mae"] = [result["mae"] for result in history.pop("compile_metrics")]
        assert set(history) == {"loss", "mae"}
        return np.array(history["loss"], float), np.array(history["mae"], float)

    assert_alike(one_worker, train)


def test_a_log_with_the_name_of_a_metric_that_no_step_updates(one_worker):
    """Keras's own tracker of the loss is named "loss" too, and would say 0."""

    class Own(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
            return {"loss": loss, "twice": 2 * loss}

    def train(strategy):
        with here(strategy):
            inputs = keras.Input((2,), dtype="int64")
            rows = keras.layers.Flatten()(keras.layers.Embedding(ROWS, 4)(inputs))
            model = Own(inputs, keras.layers.Dense(1)(rows))
            model.compile(keras.optimizers.SGD(0.1), "mse")
        steps = []
        watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(logs["loss"]))
        watch = [] if strategy else [watch]
        history = model.fit(IDS, LABELS, batch_size=32, epochs=2, shuffle=False, verbose=0, callbacks=watch).history
        # Keras shows the last step. Here the mean over the steps is shown.
        loss = np.array(history["loss"] if strategy else np.reshape(steps, (2, -1)).mean(1), float)
        assert min(loss) > 0
        return loss, np.array(history["twice"], float) if strategy else 2 * loss

    assert_alike(one_worker, train)


class TwoOptimizers(keras.Model):
    """Each of its parts has an optimizer of its own, which builds itself at the first step."""

    def __init__(self, first, second):
        super().__init__()
        self.table = keras.layers.Embedding(ROWS, 4, embeddings_initializer="ones")
        self.kernel = keras.layers.Dense(1)
        self.first, self.second = first, second

    def call(self, ids):
        return self.kernel(keras.ops.reshape(self.table(ids), (-1, 8)))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(self(x) - y))
        parts = self.table.trainable_weights, self.kernel.trainable_weights
        gradients = tape.gradient(loss, parts)
        for optimizer, gradient, weights in zip((self.first, self.second), gradients, parts, strict=True):
            optimizer.apply_gradients(zip(gradient, weights, strict=True))
        return {"loss": loss}


@pytest.mark.parametrize("outside", [False, True], ids=["made in the scope", "made outside"])
def test_a_model_may_hold_optimizers_of_its_own(one_worker, outside):
    def train(strategy):
        with contextlib.nullcontext() if outside else here(strategy):
            optimizers = keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.01)
        with here(strategy):
            model = TwoOptimizers(*optimizers)
            model.compile()
        model.fit(IDS, LABELS, batch_size=32, epochs=2, shuffle=False, verbose=0)
        assert [int(optimizer.iterations) for optimizer in optimizers] == [6, 6]
        return [*model.get_weights(), *(np.asarray(v) for v in optimizers[1].variables)]

    assert_alike(one_worker, train, rtol=2e-3)


class Counts(keras.Model):
    """Its gradient is -1 for every place of a table, so that a row of it counts what was applied."""

    def __init__(self, how):
        super().__init__()
        self.tables = [keras.layers.Embedding(ROWS, 2, embeddings_initializer="zeros") for _ in range(2)]
        self.optimizers = [keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0)]
        self.how = how

    def call(self, ids):
        return self.tables[0](ids) + self.tables[1](ids)

    def train_step(self, data):
        first, second = (table.trainable_weights for table in self.tables)
        for optimizer, weights in {
            "two optimizers": [(0, first), (1, second)],
            "one optimizer twice": [(0, first), (0, second)],
            "one table twice": [(0, first), (1, first)],
        }[self.how]:
            with tf.GradientTape() as tape:
                loss = -keras.ops.sum(self(data[0]))
            gradients = tape.gradient(loss, weights)
            self.optimizers[optimizer].apply_gradients(zip(gradients, weights, strict=True))
        return {"loss": loss}


@pytest.mark.parametrize("how", ["two optimizers", "one optimizer twice", "one table twice"])
def test_every_push_of_a_step_counts(strategy, how):
    with strategy.scope():
        model = Counts(how)
        for table in model.tables:
            table.build()
        for optimizer in model.optimizers:
            optimizer.build(model.trainable_weights)
        model.compile()
    model.fit(IDS, LABELS, batch_size=4, epochs=2, verbose=0)
    seen = 2.0 * np.bincount(IDS.reshape(-1), minlength=ROWS)
    found = [table.get_weights()[0][:, 0] for table in model.tables]
    np.testing.assert_array_equal(found[0], 2 * seen if how == "one table twice" else seen)
    np.testing.assert_array_equal(found[1], 0 * seen if how == "one table twice" else seen)


def test_more_pushes_than_a_step_has_stamps_for_are_refused(strategy):
    class Often(Counts):
        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = -keras.ops.sum(self(data[0]))
            weights = self.tables[0].trainable_weights
            gradients = tape.gradient(loss, weights)
            for _ in range(65):
                self.optimizers[0].apply_gradients(zip(gradients, weights, strict=True))
            return {"loss": loss}

    with strategy.scope():
        model = Often("")
        model.compile()
    with pytest.raises(UnsupportedError, match="at most 64 times"):
        model.fit(IDS, LABELS, batch_size=32, verbose=0)


def test_every_step_of_each_optimizer_counts(strategy):
    with strategy.scope():
        model = TwoOptimizers(keras.optimizers.SGD(0.1, momentum=0.5), keras.optimizers.Adam(0.01))
        model.compile()
    model.fit(IDS, LABELS, batch_size=4, epochs=2, verbose=0)
    assert int(model.first.iterations) == int(model.second.iterations) == 48


def test_a_mode_of_an_optimizer_beside_the_compiled_one_is_refused(strategy):
    for inner in (tfps.optimizers.Sync(keras.optimizers.SGD(0.1)), tfps.optimizers.Geo(keras.optimizers.SGD(0.1))):
        with strategy.scope():
            model = TwoOptimizers(inner, keras.optimizers.SGD(0.1))
            model.compile()
        with pytest.raises(UnsupportedError, match="mode of the one given to `compile`"):
            model.fit(IDS, LABELS, batch_size=4, verbose=0)


def test_a_model_that_is_compiled_without_an_optimizer_has_the_mode_of_its_own(strategy):
    optimizers = [tfps.optimizers.Sync(keras.optimizers.SGD(0.1)), tfps.optimizers.Sync(keras.optimizers.Adam(0.1))]
    with strategy.scope():
        model = TwoOptimizers(*optimizers)
        model.compile()
    model.fit(IDS, LABELS, batch_size=len(IDS) // 4, verbose=0)
    assert [int(optimizer.iterations) for optimizer in optimizers] == [2, 2]


def test_an_optimizer_without_a_row_wise_form_may_train_what_is_dense(strategy):
    with strategy.scope():
        model = TwoOptimizers(keras.optimizers.SGD(0.1), keras.optimizers.Lamb(0.01))
        model.compile()
    model.fit(IDS, LABELS, batch_size=32, verbose=0)
    with strategy.scope():
        model = TwoOptimizers(keras.optimizers.Lamb(0.1), keras.optimizers.SGD(0.01))
        model.compile()
    with pytest.raises(UnsupportedError, match=r"row-wise form.*Lamb"):
        model.fit(IDS, LABELS, batch_size=32, verbose=0)


def test_a_model_that_was_refused_does_not_stand_in_the_way_of_the_next(strategy):
    keras.config.set_dtype_policy("bfloat16")
    try:
        with strategy.scope():
            refused = keras.Sequential([keras.layers.Embedding(ROWS, 4), keras.layers.Flatten(), keras.layers.Dense(1)])
            refused.compile("sgd", "mse")
        with pytest.raises(Exception, match="float32"):
            refused.fit(IDS, LABELS, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    with strategy.scope():
        model = keras.Sequential([keras.layers.Embedding(ROWS, 4), keras.layers.Flatten(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    model.fit(IDS, LABELS, verbose=0)


@pytest.mark.parametrize("mode", ["async", "sync", "geo"])
@pytest.mark.parametrize("every", [True, False], ids=["every row in each batch", "some rows"])
def test_a_regularizer_of_a_table_sees_the_rows_of_the_batch(one_worker, mode, every):
    # The official example of collaborative filtering has such tables.
    ids = np.stack([np.random.default_rng(i).permutation(30 if every else ROWS)[:30] for i in range(8)]).reshape(-1)
    rate, strength = 0.5, 0.1
    with one_worker.scope():
        table = keras.layers.Embedding(
            ROWS, 2, embeddings_initializer="ones", embeddings_regularizer=keras.regularizers.L2(strength)
        )
        plain = keras.layers.Embedding(ROWS, 2, embeddings_initializer="ones")
        inputs = keras.Input((), dtype="int64")
        model = keras.Model(inputs, keras.layers.Add()([table(inputs), table(inputs), plain(inputs)]))
        optimizer = keras.optimizers.SGD(rate)
        modes = {"async": lambda: optimizer, "sync": tfps.optimizers.Sync, "geo": tfps.optimizers.Geo}
        model.compile(optimizer if mode == "async" else modes[mode](optimizer), lambda y, found: 0.0 * found)
    history = model.fit(ids, np.zeros(len(ids)), batch_size=30, shuffle=False, verbose=0)
    # The gradient of strength * w^2 is 2 * strength * w, once for each batch that has the row: not for each lookup.
    left = (1 - rate * 2 * strength) ** np.bincount(ids, minlength=ROWS)
    np.testing.assert_allclose(table.get_weights()[0][:, 0], left, rtol=1e-5)
    np.testing.assert_array_equal(plain.get_weights()[0], np.ones((ROWS, 2)))
    assert history.history["loss"][0] > 0
    if every:
        keras.utils.set_random_seed(1)
        alone = keras.Sequential(
            [
                keras.layers.Embedding(
                    30, 2, embeddings_initializer="ones", embeddings_regularizer=keras.regularizers.L2(strength)
                )
            ]
        )
        alone.compile(keras.optimizers.SGD(rate), lambda y, found: 0.0 * found)
        expected = alone.fit(ids, np.zeros(len(ids)), batch_size=30, shuffle=False, verbose=0)
        np.testing.assert_allclose(alone.get_weights()[0], table.get_weights()[0][:30], rtol=1e-5)
        assert history.history["loss"] == pytest.approx(expected.history["loss"], rel=1e-4)
