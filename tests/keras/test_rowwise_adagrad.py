"""RowwiseAdagrad against its formula in numpy: alone, on servers in all modes, in memory, and saved."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.embedding.table import Table
from tfps.errors import ConfigError
from tfps.ops.apply_rows import apply_rows, pack_update
from tfps.ops.row_rules import ROW_RULES

RATE, EPSILON, FIRST = 0.1, 1e-3, 0.1
ROWS, DIM = 50, 6


class Twin:
    """The formula, a row at a time, in float64."""

    def __init__(self, rows):
        self.rows, self.accumulators = np.array(rows, np.float64), np.full(len(rows), FIRST)

    def update(self, row, gradient, decay=0.0):
        self.rows[row] -= self.rows[row] * decay
        self.accumulators[row] += np.mean(np.square(np.asarray(gradient, np.float64)))
        self.rows[row] -= RATE * gradient / np.sqrt(self.accumulators[row] + EPSILON)


def optimizer(**arguments):
    return tfps.optimizers.RowwiseAdagrad(RATE, FIRST, EPSILON, **arguments)


@pytest.fixture
def rng():
    return np.random.default_rng(20)


@pytest.mark.parametrize("way", ["library", "graph"])
@pytest.mark.parametrize("dim", [1, 3, 16, 37])
def test_rows_are_updated_by_the_formula(monkeypatch, rng, dim, way):
    if way == "graph":
        monkeypatch.setenv("TFPS_DISABLE_OPS", "1")
    start = rng.normal(size=[13, dim]).astype(np.float32)
    local, gradients = [7, 2, 11], rng.normal(size=[4, 3, dim]).astype(np.float32)
    table, slot, twin = tf.Variable(start), tf.Variable(tf.fill([13, 1], FIRST)), Twin(start)
    for gradient in gradients:
        message = pack_update([RATE, EPSILON, 0.01], tf.constant([3, *local], tf.int64), gradient)
        apply_rows(ROW_RULES["rowwise_adagrad"], [[table, slot]], message)
        for row, of_row in zip(local, gradient, strict=True):
            twin.update(row, of_row, decay=0.01)
    np.testing.assert_allclose(table.numpy(), twin.rows, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slot.numpy()[:, 0], twin.accumulators, rtol=1e-5)


def test_without_a_strategy_matrices_go_by_rows_and_others_by_elements(rng):
    matrix, vector = (rng.normal(size=size).astype(np.float32) for size in ((5, 4), (4,)))
    variables = [keras.Variable(matrix), keras.Variable(vector)]
    ours, adagrad = optimizer(), keras.optimizers.Adagrad(RATE, FIRST, EPSILON)
    twin, alone = Twin(matrix), keras.Variable(vector)
    for _ in range(3):
        gradients = [tf.constant(rng.normal(size=v.shape), tf.float32) for v in variables]
        ours.apply(gradients, variables)
        adagrad.apply(gradients[1:], [alone])
        for row, gradient in enumerate(gradients[0].numpy()):
            twin.update(row, gradient)
    np.testing.assert_allclose(variables[0].numpy(), twin.rows, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variables[1].numpy(), alone.numpy(), rtol=1e-5, atol=1e-6)
    assert [tuple(v.shape) for v in ours.variables[2:]] == [(5, 1), (4,)]


def test_an_id_that_comes_twice_is_one_row_with_the_sum_of_its_gradients(rng):
    start = rng.normal(size=[9, 3]).astype(np.float32)
    values, ids = rng.normal(size=[4, 3]).astype(np.float32), np.array([2, 5, 2, 7])
    dense = np.zeros([9, 3], np.float32)
    np.add.at(dense, ids, values)
    results = []
    for gradient in (tf.constant(dense), tf.IndexedSlices(tf.constant(values), tf.constant(ids), [9, 3])):
        variable, own = keras.Variable(start), optimizer()
        own.apply([gradient], [variable])
        results.append([variable.numpy(), own.variables[-1].numpy()])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def built(strategy, made):
    keras.utils.set_random_seed(3)
    with strategy.scope() if strategy else contextlib.nullcontext():
        inputs = keras.Input((2,), dtype="int64")
        wide, narrow = keras.layers.Embedding(ROWS, DIM, name="wide"), keras.layers.Embedding(ROWS, 1, name="narrow")
        rows = [keras.layers.Flatten()(wide(inputs)), narrow(inputs[:, 1])]
        model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(rows)))
        model.compile(made, "mse")
    return model


def examples(count):
    ids = np.random.default_rng(1).integers(0, ROWS, (count, 2))
    return ids, (ids[:, :1] % 7).astype("float32")


def state(model):
    return [*model.get_weights(), *(np.asarray(v) for v in model.optimizer.variables[2:])]


@pytest.mark.parametrize("mode", ["async", "geo", pytest.param("sync", marks=pytest.mark.slow)])
def test_one_worker_gives_what_one_process_gives(one_worker, mode):
    modes = {"async": lambda inner: inner, "geo": lambda inner: tfps.optimizers.Geo(inner, push_every=5)}
    modes["sync"] = tfps.optimizers.Sync
    ids, labels = examples(20 * 16)
    models = [built(one_worker, modes[mode](optimizer())), built(None, optimizer())]
    for model in models:
        model.fit(ids, labels, batch_size=16, epochs=2, shuffle=False, verbose=0)
    for ours, theirs in zip(*map(state, models), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)


def test_two_workers_reach_what_one_process_reaches(strategy):
    ids, labels = examples(64 * 16)
    losses = {}
    for name, of, made in (("sync", strategy, tfps.optimizers.Sync(optimizer())), ("one", None, optimizer())):
        model = built(of, made)
        # Sync joins a batch of each of two workers.
        model.fit(ids, labels, batch_size=16 if of else 32, epochs=2, shuffle=False, verbose=0)
        losses[name] = model.evaluate(ids, labels, verbose=0)
    assert losses["sync"] == pytest.approx(losses["one"], rel=1e-3)


def test_a_slot_takes_four_bytes_a_row_on_the_servers_and_in_the_plan(strategy):
    model = built(strategy, optimizer())
    model.train_on_batch(*examples(4))
    slot = next(v._value for v in model.optimizer.variables if "wide" in v.path)
    assert isinstance(slot, Table) and slot.servers == model.get_layer("wide").embeddings._value.servers
    assert sum(chunk.rows.numpy().nbytes for chunk in slot.scan()) == 4 * ROWS
    plan = tfps.plan(lambda: built(None, optimizer()), num_ps=2)
    specs = {placement.spec.name.split("/")[0]: placement.spec for placement in plan}
    assert (specs["wide"].slots, specs["wide"].row_slots) == (0, 1)
    assert specs["wide"].bytes_with_slots == ROWS * 4 * (DIM + 1)
    assert (specs["narrow"].slots, specs["narrow"].row_slots) == (1, 0)
    everything = [placement.spec for placement in plan]
    assert sum(load.bytes_with_slots for load in plan.loads()) == sum(spec.bytes_with_slots for spec in everything)


def test_saved_and_loaded_it_goes_on_as_if_never_stopped(one_worker, tmp_path):
    ids, labels = examples(64)
    model = built(one_worker, optimizer())
    model.fit(ids, labels, batch_size=16, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    plain = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(plain.optimizer, tfps.optimizers.RowwiseAdagrad)
    with one_worker.scope():
        loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, plain, loaded):
        each.fit(ids, labels, batch_size=16, shuffle=False, verbose=0)
    for of_loaded in (plain, loaded):
        for ours, theirs in zip(state(of_loaded), state(model), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)


def test_settings_are_serialized_and_checked():
    config = keras.optimizers.serialize(optimizer(weight_decay=0.01))
    again = keras.optimizers.deserialize(config)
    assert again.get_config() == optimizer(weight_decay=0.01).get_config()
    with pytest.raises(ConfigError, match="`epsilon` must be a number above 0. Received: 0"):
        tfps.optimizers.RowwiseAdagrad(epsilon=0)
    with pytest.raises(ConfigError, match="`initial_accumulator_value` .* Received: -1"):
        tfps.optimizers.RowwiseAdagrad(initial_accumulator_value=-1)
