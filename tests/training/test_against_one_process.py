"""What servers and workers reach, against the same model in one process on the same data and seed."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

ROWS = 300


def fit(strategy, optimizer):
    """Weights after two epochs; each batch holds an id at most once, where Keras's own sparse updates are exact."""
    keras.utils.set_random_seed(7)
    random = np.random.default_rng(1)
    ids = np.stack([random.permutation(ROWS)[:32] for _ in range(20)]).reshape(-1)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = keras.Sequential(
            [
                keras.Input((), dtype="int64"),
                keras.layers.Embedding(ROWS, 4, first_values(optimizer)),
                keras.layers.Dense(1),
            ]
        )
        model.compile(optimizer=optimizer(), loss="mse")
    data = tf.data.Dataset.from_tensor_slices((ids, (ids % 7).astype("float32"))).batch(32)
    model.fit(data, epochs=2, verbose=0)
    return model.get_weights()


def first_values(optimizer):
    """Ftrl computes a row from its slots alone: Keras's dense form zeroes rows that no batch has had yet."""
    return "zeros" if isinstance(optimizer(), keras.optimizers.Ftrl) else "uniform"


def some_at_once(optimizers, *named):
    """The optimizers named run in every test run, the others in a slow one: tests/ops has the rows of all of them."""
    marks = {name: () if name in named else (pytest.mark.slow,) for name in optimizers}
    return [pytest.param(optimizer, id=name, marks=marks[name]) for name, optimizer in optimizers.items()]


EXACT = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "adagrad with a schedule": lambda: keras.optimizers.Adagrad(
        keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.9)
    ),
    "ftrl": lambda: keras.optimizers.Ftrl(0.1),
}
WITH_MOMENTA = {
    "nesterov": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "amsgrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "adamax": lambda: keras.optimizers.Adamax(0.01),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "adadelta": lambda: keras.optimizers.Adadelta(1.0),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
}


@pytest.mark.parametrize("optimizer", some_at_once(EXACT, "sgd", "adagrad with a schedule", "ftrl"))
def test_one_worker_gives_what_one_process_gives(one_worker, optimizer):
    for ours, theirs in zip(fit(one_worker, optimizer), fit(None, optimizer), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)


def test_several_workers_give_a_young_model_what_one_process_gives(strategy):
    """The same batches in the same order, the same masks, and the same moving averages."""

    def fit_on(place):
        keras.utils.set_random_seed(7)
        with place.scope() if place else contextlib.nullcontext():
            layers = keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.5, seed=3), keras.layers.BatchNormalization()
            model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])
            model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
        x = np.random.default_rng(1).normal(size=(450, 4)).astype("float32")
        losses = model.fit(x, x[:, :1], batch_size=10, shuffle=False, epochs=2, verbose=0).history["loss"]
        return [*model.get_weights(), losses]

    for ours, theirs in zip(fit_on(strategy), fit_on(None), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("optimizer", some_at_once(WITH_MOMENTA, "nesterov", "adamw", "rmsprop"))
def test_where_every_batch_has_every_row_momenta_are_those_of_one_process(one_worker, optimizer):
    def trained(strategy):
        keras.utils.set_random_seed(7)
        random = np.random.default_rng(1)
        ids = np.stack([random.permutation(40) for _ in range(20)]).reshape(-1)
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = keras.Sequential([keras.Input((), dtype="int64"), keras.layers.Embedding(40, 4)])
            model.add(keras.layers.Dense(1))
            model.compile(optimizer=optimizer(), loss="mse")
        labels = (1 + ids % 7).astype("float32")  # 0 would give gradients that are nothing but rounding
        model.fit(ids, labels, batch_size=40, epochs=2, shuffle=False, verbose=0)
        return [*model.get_weights(), *(np.asarray(v) for v in model.optimizer.variables)]

    for ours, theirs in zip(trained(one_worker), trained(None), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("lookups", [1, 2])
@pytest.mark.parametrize("prefetch", [False, True])
def test_prefetched_rows_miss_the_update_of_one_step(one_worker, monkeypatch, prefetch, lookups):
    monkeypatch.setattr(one_worker, "prefetch_lookups", prefetch)
    steps, closure, rate = 32, 4, 0.1
    with one_worker.scope():
        ids = keras.Input((), dtype="int64")
        table = keras.layers.Embedding(5, 1, embeddings_initializer="ones")
        model = keras.Model(ids, sum(table(ids) for _ in range(lookups)))
        model.compile(keras.optimizers.SGD(rate), "mse", steps_per_execution=closure)
    model.fit(np.full(steps, 3), np.zeros(steps, np.float32), batch_size=1, verbose=0)

    row = 1.0
    for _ in range(steps // closure):
        used = row
        for _ in range(closure):
            ahead = row
            row -= rate * 2 * lookups**2 * (used if prefetch else row)
            used = ahead
    np.testing.assert_allclose(model.get_weights()[0][:, 0], [1, 1, 1, row, 1], rtol=1e-4)


def test_tables_of_two_widths_train_as_in_one_process(one_worker):
    def weights(strategy):
        keras.utils.set_random_seed(5)
        with strategy.scope() if strategy else contextlib.nullcontext():
            ids = keras.Input((3,), dtype="int64")
            rows = [keras.layers.Embedding(ROWS, dim)(ids[:, i]) for i, dim in enumerate((4, 1, 7))]
            model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Concatenate()(rows)))
            model.compile(keras.optimizers.Adagrad(0.1), "mse")
        random = np.random.default_rng(2)
        columns = [np.stack([random.permutation(ROWS)[:32] for _ in range(10)]).reshape(-1) for _ in range(3)]
        model.fit(np.stack(columns, 1), np.ones(320, np.float32), batch_size=32, shuffle=False, verbose=0)
        return model.get_weights()

    for ours, theirs in zip(weights(one_worker), weights(None), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize(
    "initializer", ["uniform", "normal", "glorot_uniform", "truncated_normal", "he_normal", "ones"]
)
def test_first_values_are_those_of_one_process(strategy, initializer):
    def weights(scope):
        keras.utils.set_random_seed(3)
        with scope:
            layer = keras.layers.Embedding(40_001, 6, embeddings_initializer=initializer)
            layer.build()
        return layer.get_weights()[0]

    np.testing.assert_allclose(weights(strategy.scope()), weights(contextlib.nullcontext()), rtol=1e-6)


def adult(data):
    lines = [line.split(", ") for line in (data / "adult_census" / "adult.data").read_text().splitlines() if line]
    ids = np.array([[hash_of(f"{i}={cell}") for i, cell in enumerate(cells[:-1])] for cells in lines])
    return ids, np.array([cells[-1] == ">50K" for cells in lines], "float32")


def hash_of(text):
    return int.from_bytes(text.encode()[-7:], "little") * 2654435761 % 50_000


def adult_auc(strategy, ids, labels, wrap=lambda optimizer: optimizer):
    keras.utils.set_random_seed(1)
    with strategy.scope() if strategy else contextlib.nullcontext():
        layers = [keras.Input((14,), dtype="int64"), keras.layers.Embedding(50_000, 8), keras.layers.Flatten()]
        model = keras.Sequential(
            [*layers, keras.layers.Dense(64, activation="relu"), keras.layers.Dense(1, activation="sigmoid")]
        )
        model.compile(wrap(keras.optimizers.Adagrad(0.2)), loss="binary_crossentropy", metrics=["auc"])
    train = tf.data.Dataset.from_tensor_slices((ids[:26_000], labels[:26_000])).shuffle(26_000, seed=1).batch(256)
    model.fit(train, epochs=4, verbose=0)
    assert int(model.optimizer.iterations) == 4 * 102
    return model.evaluate(ids[26_000:], labels[26_000:], batch_size=512, verbose=0, return_dict=True)["auc"]


def test_auc_on_adult_is_that_of_one_process(strategy, data):
    ids, labels = adult(data)
    alone, together = adult_auc(None, ids, labels), adult_auc(strategy, ids, labels)
    assert alone > 0.88
    assert together == pytest.approx(alone, abs=0.005)
