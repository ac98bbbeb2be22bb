"""A layer with another kind of table trains in every mode, to the same rows, slots and counts as with a sharded one."""

import contextlib

import keras
import numpy as np
import pytest

import tfps
from tests.embedding.dict_table import DictEmbedding, DictTable
from tfps.embedding.sharded_table import ShardedTable

ROWS, EXAMPLES = 300, 20 * 32
# Ids of which many batches have some in common, so that the order of updates counts.
IDS = np.random.default_rng(1).zipf(1.3, (EXAMPLES, 3)) % ROWS
LABELS = (IDS[:, :1] % 7).astype("float32")


def model_of(strategy, layer, optimizer, regularizer=None):
    """Two tables of different widths, one of them looked up twice."""
    keras.utils.set_random_seed(7)
    with strategy.scope():
        inputs = keras.Input((3,), dtype="int64")
        wide, narrow = layer(ROWS, 4, embeddings_regularizer=regularizer), layer(ROWS, 1)
        rows = [keras.layers.Flatten()(wide(inputs[:, :2])), wide(inputs[:, 2]), narrow(inputs[:, 1])]
        model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(rows)))
        model.compile(optimizer=optimizer, loss="mse", metrics=["mae"])
    return model


def kinds(model):
    return {type(v._value) for v in [*model.variables, *model.optimizer.variables] if len(v.shape) == 2} - {
        type(model.layers[-1].kernel._value)
    }


def state(model):
    return [*model.get_weights(), *(np.asarray(v) for v in model.optimizer.variables[2:])]


def same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


def trained(strategy, layer, optimizer, regularizer=None):
    model = model_of(strategy, layer, optimizer, regularizer)
    model.fit(IDS, LABELS, batch_size=32, epochs=2, shuffle=False, verbose=0)
    return model


MODES = {
    "asynchronous": lambda: keras.optimizers.Adam(0.01),
    "asynchronous, clipped": lambda: keras.optimizers.Adagrad(0.1, global_clipnorm=0.05),
    "geo": lambda: tfps.optimizers.Geo(keras.optimizers.Adagrad(0.1), push_every=7),
    "geo, overlap": lambda: tfps.optimizers.Geo(keras.optimizers.Adam(0.01), push_every=3, overlap=True),
    "geo, one number a row": lambda: tfps.optimizers.Geo(tfps.optimizers.RowwiseAdagrad(0.1), push_every=7),
    "sync": lambda: tfps.optimizers.Sync(keras.optimizers.Adagrad(0.1)),
}


@pytest.mark.parametrize("mode", MODES)
def test_one_worker_reaches_the_same_rows_and_slots(one_worker, mode):
    regularizer = "l2" if mode.startswith("asynchronous") else None
    sharded, other = (
        trained(one_worker, layer, MODES[mode](), regularizer) for layer in (keras.layers.Embedding, DictEmbedding)
    )
    assert kinds(sharded) == {ShardedTable} and kinds(other) == {DictTable}
    assert int(other.optimizer.iterations) == 40
    assert not np.array_equal(other.get_weights()[0], model_of(one_worker, DictEmbedding, "sgd").get_weights()[0])
    same(state(other), state(sharded))
    same(other.evaluate(IDS, LABELS, verbose=0), sharded.evaluate(IDS, LABELS, verbose=0))


def test_two_workers_reach_the_same_rows_and_slots_in_step(strategy):
    sharded, other = (trained(strategy, layer, MODES["sync"]()) for layer in (keras.layers.Embedding, DictEmbedding))
    assert kinds(other) == {DictTable}
    same(state(other), state(sharded))


class NegativeSum(keras.losses.Loss):
    """Its gradient is -1 for every looked-up element, so with SGD at rate 1 a row counts how often it was seen."""

    def __init__(self):
        super().__init__(reduction="sum")

    def call(self, y_true, y_pred):
        return -keras.ops.sum(y_pred, axis=-1)


@pytest.mark.parametrize("mode", ["asynchronous", "geo"])
def test_two_workers_count_every_id(strategy, mode):
    optimizer = keras.optimizers.SGD(1.0)
    if mode == "geo":
        optimizer = tfps.optimizers.Geo(optimizer, push_every=5, merge="sum")
    with strategy.scope():
        table = DictEmbedding(ROWS, 4, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((3,), dtype="int64"), table])
        model.compile(optimizer, NegativeSum())
    model.fit(IDS, np.zeros((EXAMPLES, 3, 4), "float32"), batch_size=8, epochs=3, verbose=0)
    counts = np.bincount(IDS.reshape(-1), minlength=ROWS) * 3.0
    np.testing.assert_array_equal(model.get_weights()[0], np.repeat(counts[:, np.newaxis], 4, 1))


@pytest.mark.parametrize("elsewhere", ["on servers", "in one process"])
def test_what_is_saved_is_loaded_and_trained_on(one_worker, tmp_path, elsewhere):
    model = trained(one_worker, DictEmbedding, "adam")
    model.save(tmp_path / "model.keras")
    with one_worker.scope() if elsewhere == "on servers" else contextlib.nullcontext():
        loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"DictEmbedding": DictEmbedding})
    same(state(loaded), state(model))
    if elsewhere == "on servers":
        assert kinds(loaded) == {DictTable}
        for one in (model, loaded):
            one.fit(IDS, LABELS, batch_size=32, shuffle=False, verbose=0)
        same(state(loaded), state(model))
