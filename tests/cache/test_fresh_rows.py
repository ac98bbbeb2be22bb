"""No copy of a row survives an assignment, a restored checkpoint or a new `fit`; `evaluate` and `predict` use none."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.strategy.test_arguments import DEFAULTS
from tfps.embedding import row_version
from tfps.runtime.remote_variables import operations_of
from tfps.strategy.arguments import Arguments

ROWS, BATCHES = 20, 12
IDS = np.tile(np.arange(ROWS, dtype="int64"), BATCHES).reshape(-1, 1)


class Output(keras.metrics.Metric):
    """The least and the greatest output of an epoch, as their sum over the batches."""

    def __init__(self, reduce, name):
        super().__init__(name=name)
        self.reduce, self.total = reduce, self.add_weight(name="total", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(self.reduce(y_pred))

    def result(self):
        return self.total / BATCHES


def frozen(strategy):
    """A model whose updates change nothing, so that its outputs show which rows its steps see."""
    with strategy.scope():
        table = keras.layers.Embedding(ROWS, 4, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((1,), dtype="int64"), table])
        metrics = [Output(keras.ops.min, "least"), Output(keras.ops.max, "greatest")]
        model.compile(keras.optimizers.SGD(0.0), "mse", metrics=metrics)
    return model


def data():
    return tf.data.Dataset.from_tensor_slices((IDS, np.zeros((len(IDS), 1, 4), "float32"))).batch(ROWS)


@pytest.fixture
def model(one_worker, caching):
    caching(64, 10_000)
    return frozen(one_worker)


def fill(model, value):
    model.set_weights([np.full((ROWS, 4), value, "float32")])


def test_an_assignment_in_a_callback_is_seen_by_the_next_step(model):
    class Assign(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            fill(model, epoch + 1.0)

    logs = model.fit(data(), epochs=3, verbose=0, callbacks=[Assign()]).history
    assert logs["least"] == logs["greatest"] == [0.0, 1.0, 2.0]


def test_an_assignment_in_the_middle_of_an_epoch_is_seen_too(model):
    class Assign(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            # The callback reaches the model between two batches, so no step runs ahead of it.
            self.model.set_weights([np.full((ROWS, 4), batch + 1.0, "float32")])

    logs = model.fit(data(), verbose=0, callbacks=[Assign()]).history
    assert logs["least"] == logs["greatest"] == [pytest.approx(np.mean(np.arange(BATCHES)))]


def test_a_restored_checkpoint_is_seen_by_the_next_step(model, tmp_path):
    fill(model, 5.0)
    tfps.checkpoint.save(model, str(tmp_path / "saved"))
    fill(model, 6.0)

    class Restore(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            tfps.checkpoint.restore(model, str(tmp_path / "saved"))

    logs = model.fit(data(), epochs=2, verbose=0, callbacks=[Restore()]).history
    assert logs["least"] == logs["greatest"] == [6.0, 5.0]


def test_fits_batches_and_evaluation_read_what_the_servers_have(model):
    model.fit(data(), verbose=0)
    # Another program's way of changing rows: nothing here counts it.
    store = model.layers[0].embeddings.value.stores[0]
    store.assign(tf.constant([0], tf.int64), tf.fill([1, 4], 3.0))
    assert model.evaluate(data(), verbose=0, return_dict=True)["greatest"] == 3.0
    assert model.predict(IDS[:ROWS], verbose=0).max() == 3.0
    assert model.fit(data(), verbose=0).history["greatest"] == [3.0]
    for value in (4.0, 5.0):
        store.assign(tf.constant([0], tf.int64), tf.fill([1, 4], value))
        # A single batch uses nothing that is kept.
        logs = model.train_on_batch(IDS[:ROWS], np.zeros((ROWS, 1, 4)), return_dict=True)
        assert logs["greatest"] * BATCHES == pytest.approx(value)
        model.reset_metrics()


def test_every_change_is_a_version_of_its_own(model):
    seen = [row_version.current()]
    fill(model, 1.0)
    seen.append(row_version.current())
    model.layers[0].embeddings.value.assign_rows(np.arange(3), np.ones((3, 4), "float32"))
    seen.append(row_version.current())
    assert len(set(seen)) == 3


def test_a_closure_that_begins_within_a_change_keeps_nothing(model, monkeypatch, tmp_path):
    store, seen = model.layers[0].embeddings.value.stores[0], []
    assign = type(store).assign

    def assign_and_look(self, *args):
        seen.append(row_version.current())
        assign(self, *args)

    tfps.checkpoint.save(model, str(tmp_path / "saved"))
    monkeypatch.setattr(type(store), "assign", assign_and_look)
    before = row_version.current()
    fill(model, 1.0)
    assert before < min(seen) and max(seen) < row_version.current()
    before, seen[:] = row_version.current(), []
    tfps.checkpoint.restore(model, str(tmp_path / "saved"))
    # Servers that see the folder read the rows by themselves.
    assert row_version.current() >= before + 2 and max(seen, default=before) < row_version.current()


def test_without_staleness_nothing_is_cached_and_numbers_are_the_same(one_worker, monkeypatch, caching):
    def weights(size):
        monkeypatch.setattr(one_worker, "cache_size", size)
        keras.utils.set_random_seed(3)
        with one_worker.scope():
            model = keras.Sequential([keras.Input((1,), dtype="int64"), keras.layers.Embedding(ROWS, 4)])
            model.compile("adagrad", "mse")
        model.fit(data(), epochs=2, verbose=0)
        (graph,) = (closure.graph for closure in model.train_function.closures.by_iterator.values())
        return model.get_weights()[0], {operation.type for operation in operations_of(graph)}

    none = Arguments(**DEFAULTS, cache_rows=100, max_staleness=0).cache_size
    plain, operations = weights(None)
    stale_free, with_cache_rows = weights(none)
    np.testing.assert_array_equal(plain, stale_free)
    assert operations == with_cache_rows and "TfpsFindCachedRows" not in operations
    kept, with_cache = weights(Arguments(**DEFAULTS, cache_rows=100, max_staleness=5).cache_size)
    assert "TfpsFindCachedRows" in with_cache and not np.array_equal(plain, kept)
