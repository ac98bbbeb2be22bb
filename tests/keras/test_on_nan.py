"""Gradients that are not finite: named with worker, step, layer and rows, left out, or applied as in Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.errors import ConfigError, NotFiniteError
from tfps.ops import not_finite
from tfps.strategy.arguments import ON_NAN, Arguments

BAD, BATCH, BATCHES = 7, 4, 6
OPTIMIZERS = {
    "async": lambda: keras.optimizers.SGD(1.0),
    "geo": lambda: tfps.optimizers.Geo(keras.optimizers.SGD(1.0), push_every=2),
    "sync": lambda: tfps.optimizers.Sync(keras.optimizers.SGD(1.0)),
}


def train(strategy, optimizer, bad_value):
    """Trains on batches of which the fourth has an example of id `BAD` with a label that is no number."""
    with strategy.scope():
        ids = keras.Input((1,), dtype="int64")
        model = keras.Model(ids, keras.layers.Embedding(50, 2, name="items", embeddings_initializer="zeros")(ids))
        model.compile(optimizer, "mse")
    given = np.arange(BATCH * BATCHES)[:, None] % 5
    labels = np.ones((BATCH * BATCHES, 1, 2), "float32")
    given[3 * BATCH], labels[3 * BATCH] = BAD, bad_value
    model.fit(tf.data.Dataset.from_tensor_slices((given, labels)).batch(BATCH), verbose=0)
    return model


@pytest.mark.parametrize("mode", OPTIMIZERS)
def test_stop_names_it(strategy, monkeypatch, mode):
    monkeypatch.setattr(strategy, "on_nan", "stop")
    with pytest.raises(NotFiniteError, match="a gradient is NaN or infinite at step") as caught:
        train(strategy, OPTIMIZERS[mode](), np.nan)
    error = caught.value
    assert error.layer == "items" and error.variables == ("items/embeddings",)
    assert error.rows == {"items/embeddings": (BAD,)} and error.worker in (0, 1)
    assert error.step == 3 or mode != "async"


@pytest.mark.parametrize("mode", OPTIMIZERS)
def test_skip_leaves_the_update_out(strategy, monkeypatch, mode):
    monkeypatch.setattr(strategy, "on_nan", "skip")
    model = train(strategy, OPTIMIZERS[mode](), np.inf)
    rows = model.get_weights()[0]
    assert np.isfinite(rows).all() and (rows[BAD] == 0).all() and (rows[:5] > 0).all()
    assert int(model.optimizer.iterations) == (BATCHES if mode != "sync" else BATCHES // 2)


def test_ignore_is_keras(strategy):
    rows = train(strategy, "sgd", np.nan).get_weights()[0]
    assert np.isnan(rows[BAD]).all() and np.isfinite(rows[:5]).all()


def test_other_texts_are_not_ours():
    assert not_finite.find("assertion failed: [something else] [1]", 0) is None


def test_refusals():
    others = {name: None for name in ("cluster", "variable_partitioner", "plan", "dense_exchange_every")}
    others |= {"overlap_dense_exchange": False, "prefetch_lookups": False, "closure_timeout_s": 600.0}
    others |= {"dense_tables_bytes": 0, "repeated_ids": "sum", "devices_per_worker": None}
    with pytest.raises(ConfigError, match=r"`on_nan` must be.*Received: 'raise'"):
        Arguments(**others, dense="exchange", on_nan="raise")
    with pytest.raises(ConfigError, match='`on_nan` must not be "skip" with dense="allreduce"'):
        Arguments(**others, dense="allreduce", on_nan="skip")
    assert [Arguments(**others, dense="exchange", on_nan=one).on_nan for one in ON_NAN] == list(ON_NAN)
