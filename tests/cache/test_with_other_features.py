"""Caches beside other features: what works counts every update, and what does not is refused by name."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.errors import TfpsError, UnsupportedError
from tfps.monitoring.process import ProcessReader, read_all

ROWS, BATCHES, BATCH = 40, 24, 32
RANDOM = np.random.default_rng(5)
IDS = RANDOM.integers(0, ROWS, (BATCHES * BATCH, 2))
COUNTS = np.bincount(IDS.reshape(-1), minlength=ROWS)


def data(ids=IDS):
    return tf.data.Dataset.from_tensor_slices((ids, np.zeros((len(ids), 1), "float32"))).batch(BATCH)


def total(y_true, y_pred):
    """Each looked up element has the gradient -1, whatever the size of the batch."""
    return -keras.ops.sum(y_pred)


def counting(strategy, layers, optimizer=None):
    """A model whose tables, with SGD at rate 1, count the places of their ids."""
    with strategy.scope():
        inputs = keras.Input((2,), dtype="int64")
        outputs = keras.layers.Concatenate()([keras.layers.Flatten()(layer(inputs)) for layer in layers])
        model = keras.Model(inputs, outputs)
        model.compile(optimizer or keras.optimizers.SGD(1.0), loss=total)
    return model


def fixed(dim):
    return keras.layers.Embedding(ROWS, dim, "zeros")


def assert_counted(layer, times=1):
    np.testing.assert_array_equal(layer.embeddings.value.numpy(), np.tile(times * COUNTS[:, None], layer.output_dim))


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("fed", [False, True])
def test_all_updates_count(strategy, caching, no_young, monkeypatch, prefetch, fed):
    monkeypatch.setattr(strategy, "prefetch_lookups", prefetch)
    caching(16, 50)  # too small for all rows
    layers = [fixed(3), fixed(3), fixed(5)]
    before = strategy.record.counts().cached
    model = counting(strategy, layers)
    for _ in range(2):
        given = (tuple(map(np.asarray, batch)) for batch in data()) if fed else data()
        model.fit(given, verbose=0)
    for layer in layers:
        assert_counted(layer, 2)
    now = strategy.record.counts().cached
    assert 0 < now.found - before.found < now.asked - before.asked


def test_tables_that_grow_are_read_fresh_beside_cached_ones(strategy, caching):
    caching(64, 50)
    grows, layer = tfps.layers.DynamicEmbedding(3, "zeros"), fixed(3)
    before = strategy.record.counts().cached
    counting(strategy, [grows, layer]).fit(data(), verbose=0)
    assert_counted(layer)
    found = {i: row for ids, rows in grows.rows() for i, row in zip(ids.tolist(), rows, strict=True)}
    assert {i: row[0] for i, row in found.items()} == {i: count for i, count in enumerate(COUNTS) if count}
    unique = sum(len(np.unique(batch)) for batch in IDS.reshape(BATCHES, -1))
    assert strategy.record.counts().cached.asked - before.asked == unique


def test_lookups_that_depend_on_rows_and_lookups_in_loops(one_worker, caching):
    caching(64, 50)

    class Chained(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.looped = fixed(1), fixed(1), fixed(1)

        def call(self, ids):
            first = self.first(ids)
            # The ids of the second lookup follow from rows that count up to a few hundred.
            second = self.second(tf.cast(tf.math.floormod(first[..., 0], float(ROWS)), tf.int64))
            looped = tf.map_fn(self.looped, ids, fn_output_signature=tf.float32)
            return tf.concat([first, second, looped], -1)

    with one_worker.scope():
        model = Chained()
        model.compile(keras.optimizers.SGD(1.0), loss=total)
    model.fit(data(), verbose=0)
    assert_counted(model.first)
    assert_counted(model.looped)
    assert model.second.embeddings.value.numpy().sum() == IDS.size


def test_several_devices_share_a_batch(strategy, caching, monkeypatch):
    monkeypatch.setattr(strategy, "step_devices", ("/device:CPU:0", "/device:CPU:1"))
    caching(64, 50)
    layers = [fixed(3), fixed(4)]
    before = strategy.record.counts().cached
    counting(strategy, layers).fit(data(), verbose=0)
    for layer in layers:
        # The gradient of a batch is the mean over its devices, by examples: half of the sum.
        assert_counted(layer, 0.5)
    assert strategy.record.counts().cached.found > before.found


@pytest.mark.parametrize("mode", [tfps.optimizers.Geo, tfps.optimizers.Sync])
def test_modes_that_decide_how_old_rows_are_refuse_caches(strategy, caching, mode):
    caching(64, 5)
    model = counting(strategy, [fixed(2)], mode(keras.optimizers.SGD(1.0)))
    with pytest.raises(
        UnsupportedError, match=f"`cache_rows` must be 0 .* mode {mode.__name__.capitalize()}.* Received: 64"
    ):
        model.fit(data(), verbose=0)


def test_hot_rows_cross_once_in_many_steps(one_worker, caching, monkeypatch):
    """The bytes that the servers send, counted at their connections."""

    def sent(steps=60):
        ids = np.tile(np.arange(256).reshape(-1, 2), (steps, 1))
        with one_worker.scope():
            inputs = keras.Input((2,), dtype="int64")
            model = keras.Model(inputs, keras.layers.Flatten()(keras.layers.Embedding(256, 64)(inputs)))
            model.compile(keras.optimizers.SGD(0.0), loss=total)
        batches = tf.data.Dataset.from_tensor_slices((ids, np.zeros((len(ids), 1), "float32"))).batch(128)
        model.fit(batches, verbose=0)  # traces
        readers = [ProcessReader(task.pid) for task in one_worker.cluster.tasks if task.order.job == "ps"]
        before = sum(reading.sent_bytes for reading in read_all(readers))
        model.fit(batches, verbose=0)
        return sum(reading.sent_bytes for reading in read_all(readers)) - before

    fresh = sent()
    caching(1024, 9)
    cached = sent()
    rows = 60 * 256 * 64 * 4
    assert fresh > rows
    # One step in ten fetches; what is left are messages of fixed size.
    assert fresh - cached == pytest.approx(0.9 * rows, rel=0.05)


@pytest.mark.parametrize("wire", ["bfloat16", "int8"])
def test_missing_rows_and_all_pushes_cross_in_fewer_bytes(strategy, caching, no_young, monkeypatch, wire):
    monkeypatch.setattr(strategy, "wire", wire)
    # Beside each other, the gradients of repeated ids have sums of squares.
    monkeypatch.setattr(strategy.factory, "keep_repeats", True)
    caching(16, 50)
    layers = [fixed(3), fixed(5), fixed(5)]
    before = strategy.record.counts().cached
    counting(strategy, layers).fit(data(), verbose=0)
    for layer in layers:
        counts = np.tile(COUNTS[:, None], layer.output_dim)
        np.testing.assert_allclose(layer.embeddings.value.numpy(), counts, rtol=0.02)
    now = strategy.record.counts().cached
    assert 0 < now.found - before.found < now.asked - before.asked


@pytest.mark.parametrize("name", ["cache_rows", "max_staleness"])
def test_sizes_that_no_operation_takes_are_refused_before_anything_starts(name):
    with pytest.raises(TfpsError, match=f"`{name}` must be at most 2_147_483_647. Received: {1 << 31}"):
        tfps.ParameterServerStrategy(**{"cache_rows": 10, name: 1 << 31})


def test_allreduce_refuses_caches_before_anything_starts():
    with pytest.raises(TfpsError, match='`cache_rows` must be 0 with dense="allreduce".* Received: 10'):
        tfps.ParameterServerStrategy(cache_rows=10, dense="allreduce")


def test_caches_need_the_built_ops(monkeypatch):
    monkeypatch.setenv("TFPS_DISABLE_OPS", "1")
    with pytest.raises(TfpsError, match="`cache_rows` must be 0 without the C"):
        tfps.ParameterServerStrategy(cache_rows=10)
