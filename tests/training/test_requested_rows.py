"""Steps of every mode count the rows that they request of each shard, as a slow twin counts them."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.placement import Placement, Routing
from tfps.training.traced_closures import TracedClosures

BATCH, BATCHES, ROWS = 64, 8, 500


def build(optimizer):
    ids = keras.Input((3,), dtype="int64")
    # Two tables of one kind share their requests; the third has requests of its own, and is looked up twice.
    tables = [keras.layers.Embedding(ROWS, width) for width in (8, 8, 4)]
    rows = [keras.layers.Flatten()(table(ids)) for table in tables]
    rows.append(keras.layers.Flatten()(tables[2](ids[:, :1])))
    model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Concatenate()(rows)))
    model.compile(optimizer, "mse", metrics=["mae"])
    return model, tables


def twin(tables, batches):
    counts = collections.Counter()
    for table in tables:
        placement = table.embeddings._value.placement
        for batch in batches:
            for shard in placement.routing.locate(np.unique(batch))[0]:
                counts[placement.spec.name, int(shard)] += 1
    return counts


def counted(strategy, tables):
    names = {table.embeddings.path for table in tables}
    shard_rows = strategy.record.counts().shard_rows
    return collections.Counter({key: rows for key, rows in shard_rows.items() if key[0] in names})


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(lambda: keras.optimizers.Adagrad(), id="asynchronous"),
        pytest.param(lambda: tfps.optimizers.Sync(keras.optimizers.SGD(), drop_slowest=0), id="synchronous"),
        pytest.param(lambda: tfps.optimizers.Geo(keras.optimizers.SGD(0.01), push_every=1), id="geo"),
    ],
)
def test_the_rows_of_each_shard_are_those_of_the_batches(strategy, optimizer):
    with strategy.scope():
        model, tables = build(optimizer())
    ids = np.random.default_rng(0).integers(0, ROWS, (BATCH * BATCHES, 3))
    data = tf.data.Dataset.from_tensor_slices((ids, np.zeros((len(ids), 1), np.float32))).batch(BATCH)
    model.fit(data, epochs=2, verbose=0)
    wanted = twin(tables, np.split(ids, BATCHES) * 2)
    assert counted(strategy, tables) == wanted
    # Steps of evaluation are no part of it.
    model.evaluate(data, verbose=0)
    assert counted(strategy, tables) == wanted


@pytest.mark.parametrize("overlap", [False, True])
def test_a_window_requests_a_row_once(one_worker, overlap):
    with one_worker.scope():
        model, tables = build(tfps.optimizers.Geo(keras.optimizers.Adam(0.01), push_every=4, overlap=overlap))
    # An epoch has at least eight windows.
    ids = np.random.default_rng(1).integers(0, ROWS, (BATCH * 32, 3))
    data = tf.data.Dataset.from_tensor_slices((ids, np.zeros((len(ids), 1), np.float32))).batch(BATCH)
    model.fit(data, verbose=0)
    found, most = counted(one_worker, tables), twin(tables, np.split(ids, 32))
    assert found.keys() == most.keys()
    assert all(found[shard] < most[shard] for shard in most)
    least = twin(tables, np.split(ids, 8))
    assert all(found[shard] >= least[shard] for shard in least)


@pytest.mark.parametrize("alone", ["a", "b"])
def test_a_step_that_requests_other_tables_is_counted_too(strategy, alone):
    """A batch of another kind is traced later, with more shards than the graphs before it, or with others first."""
    with strategy.scope():
        first, second = keras.layers.Embedding(ROWS, 8), keras.layers.Embedding(ROWS, 4)

        class Model(keras.Model):
            def call(self, inputs):
                tables = {"a": first, "b": second}
                rows = [keras.ops.sum(tables[name](inputs[name]), (1, 2)) for name in "ab" if name in inputs]
                return keras.ops.stack(rows, 1)

        model = Model()
        model({"a": np.zeros((1, 3), np.int64), "b": np.zeros((1, 3), np.int64)})
        model.compile("sgd", "mse")
    ids = np.random.default_rng(2).integers(0, ROWS, (BATCH, 3))
    table = {"a": first, "b": second}[alone]
    model.fit({alone: ids}, np.zeros((BATCH, 1)), batch_size=BATCH, verbose=0)
    assert counted(strategy, [first, second]) == twin([table], [ids])
    model.fit({"a": ids, "b": ids}, np.zeros((BATCH, 2)), batch_size=BATCH, verbose=0)
    model.fit({alone: ids}, np.zeros((BATCH, 1)), batch_size=BATCH, verbose=0)
    assert counted(strategy, [first, second]) == twin([table], [ids] * 2) + twin([first, second], [ids])


def test_with_one_server_steps_count_nothing_by_shard(strategy, monkeypatch):
    init = TracedClosures.__init__

    def init_with_one(closures, strategy, *rest):
        with monkeypatch.context() as patched:
            patched.setattr(type(strategy), "num_servers", 1)
            init(closures, strategy, *rest)

    monkeypatch.setattr(TracedClosures, "__init__", init_with_one)
    with strategy.scope():
        model, tables = build("sgd")
    unique_rows = strategy.record.counts().unique_rows
    model.fit(np.zeros((BATCH, 3), np.int64), np.zeros((BATCH, 1)), batch_size=BATCH, verbose=0)
    assert counted(strategy, tables) == {}
    assert strategy.record.counts().unique_rows == unique_rows + len(tables)


def test_the_plan_of_a_checkpoint_leaves_out_slots(strategy):
    with strategy.scope():
        model, tables = build(keras.optimizers.Adam())
        model.optimizer.build(model.trainable_variables)
    plan = strategy.factory.plan_without_slots
    names = [placement.spec.name for placement in plan]
    assert tables[0].embeddings.path in names
    assert not [name for name in names if "momentum" in name]
    assert isinstance(plan.find(tables[0].embeddings.path), Placement)
    assert plan.find(tables[0].embeddings.path).routing == Routing("hash", ROWS, 2)
