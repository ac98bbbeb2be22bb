"""Fewer bytes on the wire: bytes counted, no update lost or twice, errors that come back, exact evaluation."""

import itertools

import keras
import numpy as np
import pytest

import tfps
from tests.training.test_against_one_process import adult, adult_auc
from tests.training.test_traffic import bytes_a_step, model_of, quiet  # noqa: F401  (a fixture)
from tfps.errors import ConfigError, NotFiniteError
from tfps.strategy.arguments import Arguments

CODED = ("bfloat16", "int8")
ROWS, DIM, SIZE, BATCHES = 60, 5, 32, 24
WEIGHTS = np.array([1.0, 2.0**-9, -(2.0**-9), 2.0**-10, 0.0], "float32")
"""What a place adds to its row: all but the first are less than half a step of "int8"."""

MODES = {
    "async": lambda optimizer: optimizer,
    "ahead": lambda optimizer: optimizer,
    "geo": lambda optimizer: tfps.optimizers.Geo(optimizer, push_every=3, merge="sum"),
    "geo ahead": lambda optimizer: tfps.optimizers.Geo(optimizer, push_every=3, merge="sum", overlap=True),
    "sync": tfps.optimizers.Sync,
}


def begin(strategy, monkeypatch, mode, wire):
    """Gives the strategy the settings of a mode."""
    for setting in ("prefetch_lookups", "overlap_dense_exchange"):
        monkeypatch.setattr(strategy, setting, mode == "ahead")
    monkeypatch.setattr(strategy, "wire", wire)


@pytest.fixture(params=CODED)
def wire(request, strategy, monkeypatch):
    monkeypatch.setattr(strategy, "wire", request.param)
    return request.param


def fixed():
    return keras.layers.Embedding(ROWS, DIM, embeddings_initializer="zeros")


def growing():
    return tfps.layers.DynamicEmbedding(DIM, "zeros")


def ids_of(seed=3):
    return np.random.default_rng(seed).zipf(1.4, (BATCHES * SIZE, 2)) % ROWS


def count(strategy, layer, optimizer, ids, epochs=2):
    """Trains a table to which each place of an id adds `WEIGHTS`, with SGD at rate 1; returns its rows and a bias."""
    with strategy.scope():
        inputs = keras.Input((2,), dtype="int64")
        layer = layer()
        total = keras.ops.sum(layer(inputs) * WEIGHTS, axis=(1, 2))[:, None]
        dense = keras.layers.Dense(1, kernel_initializer="zeros", use_bias=False)
        # A dense variable of several blocks, whose gradient is the same in each step.
        constant = keras.ops.repeat(0.0 * total + 1.0, 150, axis=1) * np.resize(WEIGHTS, 150)
        model = keras.Model(inputs, total + dense(constant))
        model.compile(optimizer, loss=lambda _, y: -keras.ops.sum(y))
    model.fit(ids, np.zeros((len(ids), 1)), batch_size=SIZE, epochs=epochs, verbose=0)
    with strategy.scope():
        return layer(np.arange(ROWS)).numpy(), dense.kernel.numpy()[:, 0]


def test_pushes_of_bfloat16_are_right_in_the_mean(strategy, monkeypatch):
    """All gradients lie nearer to 1 than to the next number of bfloat16: to the nearest, each would become 1."""
    monkeypatch.setattr(strategy, "wire", "bfloat16")
    random = np.random.default_rng(4)
    ids = np.tile(np.arange(ROWS), 20)
    gradients = 1 + random.random((len(ids), DIM), "float32") / 256
    with strategy.scope():
        inputs, factors = keras.Input((), dtype="int64"), keras.Input((DIM,))
        layer = fixed()
        model = keras.Model([inputs, factors], keras.ops.sum(layer(inputs) * factors, axis=1))
        model.compile(keras.optimizers.SGD(1.0), loss=lambda _, y: -keras.ops.sum(y))
    model.fit([ids, gradients], np.zeros(len(ids)), batch_size=30, verbose=0)
    with strategy.scope():
        rows = layer(np.arange(ROWS)).numpy()
    # To the nearest the mean would be off by 20 / 512 = 0.04; at random by 0.001 at most, with 6,000 numbers.
    exact = gradients.reshape(20, ROWS, DIM).sum(0)
    assert abs((rows - exact).mean()) < 0.004


# The few that together reach every path; the rest are slow.
QUICK = [
    ("async", "bfloat16", fixed),
    ("async", "int8", growing),
    ("sync", "int8", fixed),
    ("geo ahead", "int8", fixed),
]
CASES = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
    for case in itertools.product(MODES, CODED, (fixed, growing))
]


@pytest.mark.parametrize(("mode", "wire", "layer"), CASES)
def test_all_that_is_pushed_arrives(strategy, no_young, monkeypatch, mode, wire, layer):
    begin(strategy, monkeypatch, mode, wire)
    ids = ids_of()
    places = 2 * np.bincount(ids.reshape(-1), minlength=ROWS)[:, None]
    share = 0.5 if mode == "sync" else 1.0
    rows, dense = count(strategy, layer, MODES[mode](keras.optimizers.SGD(1.0)), ids)
    # Each of two workers keeps at most one step of what it sent last; a window of GEO sends all of its batches.
    most = np.max(places) / 2
    step = 0.0 if wire == "bfloat16" else 2 * 1.02 / 127 * most
    if wire == "bfloat16":
        np.testing.assert_allclose(rows, share * places * WEIGHTS, rtol=2e-2)
    else:
        np.testing.assert_allclose(rows, share * places * WEIGHTS, atol=step)
        # The sum over all rows says that small elements arrive in the mean: 2 * 2 * 768 places.
        np.testing.assert_allclose(rows.sum(0), share * places.sum() * WEIGHTS, rtol=0.25, atol=1e-6)
    np.testing.assert_allclose(dense, share * 2 * len(ids) * np.resize(WEIGHTS, 150), rtol=0.05, atol=1.02 / 127 * 200)


def test_no_error_of_before_survives_an_assignment(strategy, wire):
    """Errors of large pushes would be larger than all that a model learns after its weights are set again."""
    with strategy.scope():
        inputs = keras.Input((2,), dtype="int64")
        rows = keras.layers.Flatten()(keras.layers.Embedding(ROWS, 8, "zeros")(inputs))
        # A dense variable whose gradient is that of the rows.
        dense = keras.layers.Dense(16, kernel_initializer="zeros", use_bias=False)
        model = keras.Model(inputs, rows + dense(keras.ops.ones_like(rows)))
        model.compile(keras.optimizers.SGD(1.0), loss=lambda y, outputs: -keras.ops.sum(y * outputs))
    zeros, ids = [np.zeros_like(weight) for weight in model.get_weights()], ids_of()
    labels = np.random.default_rng(0).uniform(1.0, 2.0, (len(ids), 16))
    model.fit(ids, 1e9 * labels, batch_size=SIZE, verbose=0)
    model.set_weights(zeros)
    model.fit(ids, labels, batch_size=SIZE, verbose=0)
    for weight in model.get_weights():
        # The sum of all labels is the most that an element can reach.
        assert np.abs(weight).max() < 2 * 2 * ids.size


def test_evaluate_and_predict_read_all_bits(strategy, wire):
    with strategy.scope():
        inputs = keras.Input((2,), dtype="int64")
        model = keras.Sequential([inputs, keras.layers.Embedding(ROWS, 8, "normal"), keras.layers.Flatten()])
        model.compile(keras.optimizers.SGD(0.1), "mse")
    ids, weights = ids_of(), model.get_weights()[0]
    labels = weights[ids].reshape(len(ids), -1)
    np.testing.assert_array_equal(model.predict(ids, verbose=0), labels)
    assert model.evaluate(ids, labels, verbose=0) == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_seen(strategy, monkeypatch, wire, value):
    with strategy.scope():
        inputs = keras.Input((2,), dtype="int64")
        layer = keras.layers.Embedding(ROWS, 8, name="items")
        model = keras.Sequential([inputs, layer, keras.layers.Flatten(), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
    table = model.get_weights()
    table[0][5, 3] = value
    model.set_weights(table)
    monkeypatch.setattr(strategy, "on_nan", "stop")
    with pytest.raises(NotFiniteError):
        model.fit(np.full((64, 2), 5), np.zeros((64, 1)), verbose=0)


def test_a_gradient_that_is_not_finite_spoils_its_elements_alone(strategy, wire):
    ids = np.array([[1, 2]] * 32)
    with strategy.scope():
        inputs = keras.Input((2,), dtype="int64")
        layer = keras.layers.Embedding(ROWS, 4, "zeros")
        model = keras.Model(inputs, layer(inputs))
        model.compile(keras.optimizers.SGD(1.0), "mse")
    labels = np.zeros((32, 2, 4), "float32")
    labels[:, 0, 1] = np.nan
    model.fit(ids, labels, batch_size=8, verbose=0)
    bad = np.argwhere(~np.isfinite(model.get_weights()[0]))
    np.testing.assert_array_equal(bad, [[1, 1]])


@pytest.mark.alone
def test_bytes_of_a_step(strategy, quiet, monkeypatch):  # noqa: F811
    found = {}
    for wire in ("float32", *CODED):
        monkeypatch.setattr(strategy, "wire", wire)
        found[wire] = bytes_a_step(model_of(strategy, 100_001))
    assert found["bfloat16"] < 0.56 * found["float32"]
    assert found["int8"] < 0.38 * found["float32"]


def test_arguments_are_checked(monkeypatch):
    made = dict.fromkeys(["cluster", "variable_partitioner", "plan", "dense_exchange_every", "devices_per_worker"])
    made |= {"overlap_dense_exchange": False, "prefetch_lookups": False, "closure_timeout_s": 1.0}
    made |= {"dense_tables_bytes": 0, "repeated_ids": "sum", "dense": "exchange"}
    for wire in ("float16", "INT8", None, 8):
        with pytest.raises(ConfigError, match="`wire` must be"):
            Arguments(**made, wire=wire)
    with pytest.raises(ConfigError, match='`wire` must be "float32" with dense="allreduce"'):
        Arguments(**made | {"dense": "allreduce"}, wire="int8")


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_auc_on_adult(one_worker, monkeypatch, data, mode):
    ids, labels = adult(data)
    found = {}
    for wire in ("float32", *CODED):
        begin(one_worker, monkeypatch, mode, wire)
        found[wire] = adult_auc(one_worker, ids, labels, MODES[mode])
    assert found["bfloat16"] == pytest.approx(found["float32"], abs=0.001)
    assert found["int8"] == pytest.approx(found["float32"], abs=0.002)
