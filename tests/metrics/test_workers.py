"""Metrics over two workers are those of one process: the learning rate is 0, so that scikit-learn knows the scores."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.metrics.models import BATCH, N, all_metrics, clicks, dataset, expected, few_metrics, make
from tfps import metrics
from tfps.errors import BufferLimitError, ConfigError, LabelError

STILL = keras.optimizers.SGD
MODES = {
    "async": lambda one: one,
    "geo": lambda one: tfps.optimizers.Geo(one, push_every=3),
    "sync": tfps.optimizers.Sync,
}
FEATURES, LABELS, WEIGHTS = clicks()


def is_near(found, scores, most=6):
    right = expected(LABELS, scores, WEIGHTS, FEATURES["user"])
    shared = [name for name in right if name in found]
    assert len(shared) == most
    for name in shared:
        assert found[name] == pytest.approx(right[name], abs=1e-6), name


@pytest.mark.usefixtures("no_young")
@pytest.mark.parametrize("mode", MODES)
def test_fit(strategy, mode):
    with strategy.scope():
        model = make(few_metrics(), MODES[mode](STILL(0.0)))
    history = model.fit(dataset((FEATURES, LABELS, WEIGHTS)), epochs=2, verbose=0).history
    scores = model.predict(FEATURES, verbose=0)
    for epoch in range(2):
        is_near({name: values[epoch] for name, values in history.items()}, scores, 3)
    assert model.metrics[1].metrics[1].tfps_buffer.size == (WEIGHTS > 0).sum()


def test_validation_within_fit(strategy):
    with strategy.scope():
        model = make([metrics.GroupAUC("user")], STILL(0.0))
    data = dataset((FEATURES, LABELS, WEIGHTS))
    logs = model.fit(data, verbose=0, validation_data=data.take(20)).history
    assert logs["val_group_auc"][0] != logs["group_auc"][0]
    found = model.evaluate(data, verbose=0, return_dict=True)
    assert found["group_auc"] == pytest.approx(logs["group_auc"][0], abs=1e-6)


def test_fed_batches_and_single_ones(strategy):
    with strategy.scope():
        model = make(all_metrics(), STILL(0.0))

    def batches():
        for begin in range(0, N, BATCH):
            rows = slice(begin, begin + BATCH)
            yield {name: one[rows] for name, one in FEATURES.items()}, LABELS[rows], WEIGHTS[rows]

    spec = tf.nest.map_structure(
        lambda one: tf.TensorSpec([None, *one.shape[1:]], one.dtype), next(iter(dataset((FEATURES, LABELS, WEIGHTS))))
    )
    fed = tf.data.Dataset.from_generator(batches, output_signature=spec)
    logs = model.evaluate(fed, verbose=0, return_dict=True)
    scores = model.predict(FEATURES, verbose=0)
    is_near(logs, scores)
    is_near(model.test_on_batch(FEATURES, LABELS, WEIGHTS, return_dict=True), scores)


def test_logs_within_an_epoch_are_not_known_yet(strategy):
    with strategy.scope():
        model = make([metrics.GroupAUC(by="user"), metrics.AUC()], STILL(0.0))
    seen = []
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(dict(logs)))
    history = model.fit(dataset((FEATURES, LABELS)), verbose=0, callbacks=[callback])
    assert all(np.isnan(one["group_auc"]) for one in seen[:-1]) and not np.isnan(seen[-2]["auc"])
    assert 0 < history.history["group_auc"][0] < 1


class Hidden(keras.Model):
    """Its metric is no attribute that Keras would track, and its step returns the result."""

    def __init__(self, metric):
        super().__init__()
        self.table = keras.layers.Embedding(60, 1)
        object.__setattr__(self, "hidden", [metric])

    def call(self, features):
        return keras.ops.sigmoid(self.table(features["item"])[:, 0, 0])

    def test_step(self, data):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        self.hidden[0].update_state(y, self(x), groups=x["user"])
        return {"hidden": self.hidden[0].result()}


def test_a_metric_that_the_model_does_not_know(strategy):
    with strategy.scope():
        metric = metrics.GroupAUC("user")
        model = Hidden(metric)
        model.compile()
    found = model.evaluate(dataset((FEATURES, LABELS)), verbose=0, return_dict=True)
    scores = model.predict(FEATURES, verbose=0)
    value = expected(LABELS, scores, np.ones(N), FEATURES["user"])["group_auc"]
    assert found["hidden"] == pytest.approx(value, abs=1e-6) == float(metric.result())


def test_refusals(strategy):
    def fit(metric, labels=LABELS):
        with strategy.scope():
            model = make([metric], STILL(0.0))
        model.fit(dataset((FEATURES, labels)), verbose=0)

    with pytest.raises(
        ConfigError, match=r"`by` of metric 'group_auc'.*Received: 'usr'. Valid: one of \['user', 'item'\]"
    ):
        fit(metrics.GroupAUC("usr"))
    with pytest.raises(LabelError, match="`y_true` of metric 'auc' must be 0 or 1. Received: 2"):
        fit(metrics.AUC(), LABELS * 2)
    with pytest.raises(BufferLimitError, match="`limit` of metric 'group_auc'.*Received: 100, and "):
        fit(metrics.GroupAUC("user", limit=100))
    # The strategy works on.
    fit(metrics.GroupAUC("user"))
