"""A layer with another kind of table trains in every mode, to the same rows, slots and counts as with a sharded one."""

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


# The conformance suite has the plain modes, with one worker and two, and what is saved. These are what it has not.
MODES = {
    "asynchronous, clipped": lambda: keras.optimizers.Adagrad(0.1, global_clipnorm=0.05),
    "geo, overlap": lambda: tfps.optimizers.Geo(keras.optimizers.Adam(0.01), push_every=3, overlap=True),
    "geo, one number a row": lambda: tfps.optimizers.Geo(tfps.optimizers.RowwiseAdagrad(0.1), push_every=7),
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
