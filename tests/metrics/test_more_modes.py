"""Metrics with several devices a worker, all-reduce, overlapping exchanges, and models of other shapes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.metrics.models import clicks, dataset, expected, few_metrics, make
from tfps import metrics

FEATURES, LABELS, WEIGHTS = clicks()


def check(strategy, optimizer, batch=32, **compile_arguments):
    """Trains an epoch and compares its logs with scikit-learn."""
    with strategy.scope():
        model = make(few_metrics(), optimizer, **compile_arguments)
    logs = model.fit(dataset((FEATURES, LABELS, WEIGHTS), batch), verbose=0).history
    scores = model.predict(FEATURES, verbose=0)
    right = expected(LABELS, scores, WEIGHTS, FEATURES["user"])
    for name in ("auc", "group_auc", "sliced_others"):
        assert logs[name] == pytest.approx([right[name]], abs=1e-6), name


def test_devices_of_a_worker(strategy, monkeypatch):
    monkeypatch.setattr(strategy, "step_devices", ("/device:CPU:0", "/device:CPU:1"))
    # The last batch has one example, and so the second device has none.
    check(strategy, keras.optimizers.SGD(0.0), batch=137)


@pytest.mark.slow
@pytest.mark.usefixtures("no_young")
def test_all_reduce(strategy, monkeypatch):
    monkeypatch.setattr(strategy, "dense", "allreduce")
    check(strategy, keras.optimizers.SGD(0.0))


@pytest.mark.slow
@pytest.mark.usefixtures("no_young")
def test_overlap(strategy, monkeypatch):
    monkeypatch.setattr(strategy, "overlap_dense_exchange", True)
    monkeypatch.setattr(strategy, "prefetch_lookups", True)
    check(strategy, keras.optimizers.SGD(0.0), steps_per_execution=5)


@pytest.mark.slow
@pytest.mark.usefixtures("no_young")
def test_overlap_of_windows(strategy):
    check(strategy, tfps.optimizers.Geo(keras.optimizers.SGD(0.0), push_every=2, overlap=True))


def test_several_outputs_and_half_precision(strategy):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        with strategy.scope():
            item = keras.Input((1,), name="item", dtype="int64")
            user = keras.Input((1,), name="user", dtype="int64")
            rows = keras.layers.Flatten()(keras.layers.Embedding(50, 4, embeddings_initializer="normal")(item))
            outputs = {name: keras.layers.Dense(1, "sigmoid", name=name)(rows) for name in ("click", "buy")}
            model = keras.Model([item, user], outputs)
            given = {name: [metrics.LogLoss(), metrics.GroupAUC(by="user")] for name in outputs}
            model.compile("sgd", {name: "binary_crossentropy" for name in outputs}, weighted_metrics=given)
    finally:
        keras.config.set_dtype_policy("float32")
    inputs = FEATURES["item"], FEATURES["user"]
    labels = {"click": LABELS, "buy": 1 - LABELS}
    logs = model.evaluate(dataset((inputs, labels)), verbose=0, return_dict=True)
    scores = model.predict(inputs, verbose=0)
    for name in outputs:
        right = expected(labels[name], scores[name], np.ones(len(LABELS)), FEATURES["user"])
        for metric in ("log_loss", "group_auc"):
            assert logs[f"{name}_{metric}"] == pytest.approx(right[metric], abs=2e-3), (name, metric)


@pytest.mark.slow
def test_progressive_metrics_on_devices(strategy, monkeypatch):
    monkeypatch.setattr(strategy, "step_devices", ("/device:CPU:0", "/device:CPU:1"))
    with strategy.scope():
        model = make([metrics.Progressive(metrics.ExactAUC())], keras.optimizers.SGD(0.0), drops=True)
    data = dataset((FEATURES, LABELS), 100)
    logs = model.fit(data, verbose=0).history
    right = model.evaluate(data, verbose=0, return_dict=True)
    assert logs["progressive_exact_auc"] == pytest.approx([right["progressive_exact_auc"]], abs=1e-4)


def test_masked_outputs():
    """Keras marks the steps of a sequence that do not count."""
    scores = tf.constant([[0.9, 0.2], [0.8, 0.1]])
    scores._keras_mask = tf.constant([[True, False], [True, True]])
    for metric, right in ((metrics.LogLoss(), -np.log([0.9, 0.2, 0.1]).mean()), (metrics.ExactAUC(), 0.5)):
        metric.update_state([[1, 1], [0, 1]], scores)
        assert float(metric.result()) == pytest.approx(right, abs=1e-6)
