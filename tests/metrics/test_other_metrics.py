"""Metrics of Keras: all that are sums are known as such, and others are named by `compile`."""

import keras
import numpy as np
import pytest

from tests.metrics.models import clicks, dataset
from tfps.errors import UnsupportedError

ARGUMENTS = {
    "MeanIoU": {"num_classes": 2},
    "IoU": {"num_classes": 2, "target_class_ids": [0]},
    "BinaryIoU": {},
    "OneHotIoU": {"num_classes": 2, "target_class_ids": [0]},
    "OneHotMeanIoU": {"num_classes": 2},
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.5},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
    "MeanMetricWrapper": {"fn": keras.losses.mean_squared_error},
}
ABSTRACT = {"Metric", "Mean", "Sum"}


def metrics_of_keras():
    names = [name for name in dir(keras.metrics) if isinstance(getattr(keras.metrics, name), type)]
    return {name: getattr(keras.metrics, name) for name in names if name not in ABSTRACT}


def model_of(strategy, metric, units=1):
    with strategy.scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(units, "sigmoid")])
        model.compile("sgd", "mse", metrics=[metric])
    return model


@pytest.mark.parametrize("name", sorted(metrics_of_keras()))
def test_metrics_of_keras_are_sums(strategy, name, caplog):
    caplog.set_level("DEBUG", logger="tfps")
    metric = metrics_of_keras()[name](**ARGUMENTS.get(name, {}))
    model_of(strategy, metric, units=2)
    # Sparse labels have another shape than predictions; the first trace checks these metrics.
    checked = not [one for one in caplog.records if "was not checked" in one.message]
    assert checked or "Sparse" in name


class Greatest(keras.metrics.Metric):
    """The greatest label."""

    def __init__(self, name="greatest_label", **arguments):
        super().__init__(name=name, **arguments)
        self.most = self.add_weight(shape=(), initializer="zeros", name="most")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.most.assign(keras.ops.maximum(self.most, keras.ops.max(y_true)))

    def result(self):
        return self.most


class Decayed(Greatest):
    """A decayed mean of labels."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.most.assign(0.9 * self.most + 0.1 * keras.ops.mean(y_true))


@pytest.mark.parametrize("kind", [Greatest, Decayed])
def test_compile_names_a_metric_that_is_no_sum(strategy, kind):
    with pytest.raises(UnsupportedError, match="metric 'greatest_label' cannot be counted by several workers.*most"):
        model_of(strategy, kind())


def test_the_first_step_names_it_where_the_model_is_not_built(strategy):
    with strategy.scope():
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile("sgd", "mse", metrics=[Greatest()])
    with pytest.raises(UnsupportedError, match="greatest_label/most:0' of a metric must grow by addition"):
        model.fit(dataset((np.ones((8, 1)), np.ones((8, 1)))), verbose=0)


def test_a_metric_of_keras_within_ours(strategy):
    from tests.metrics.models import make
    from tfps import metrics

    features, labels, weights = clicks()
    sliced = metrics.Sliced(keras.metrics.AUC(name="keras_auc"), by="item", values=[3])
    with strategy.scope():
        model = make([sliced, metrics.Progressive(keras.metrics.BinaryAccuracy())], keras.optimizers.SGD(0.0))
    logs = model.evaluate(dataset((features, labels, weights)), verbose=0, return_dict=True)
    scores = model.predict(features, verbose=0)
    for name, mine in (("3", features["item"] == 3), ("others", features["item"] != 3)):
        twin = keras.metrics.AUC()
        twin.update_state(labels[:, None], scores, weights[:, None] * mine)
        assert logs[f"keras_auc_item_{name}"] == pytest.approx(float(twin.result()), abs=1e-5)
    right = np.average((scores[:, 0] > 0.5) == labels, weights=weights)
    assert logs["progressive_binary_accuracy"] == pytest.approx(right, abs=1e-6)


def test_ranking_over_workers(strategy):
    """Ours beside those of keras-rs, which are sums too."""
    rs = pytest.importorskip("keras_rs").metrics
    from tfps import metrics

    rng = np.random.default_rng(0)
    items, relevance = rng.normal(size=(200, 7)).astype("float32"), rng.integers(0, 2, (200, 7)).astype("float32")
    # keras-rs counts lists without a relevant item as 0, so all have one here.
    relevance[relevance.sum(1) == 0, 0] = 1

    def given():
        ours = [metrics.RecallAtK(3), metrics.NDCG(3, gain="exponential"), metrics.MeanReciprocalRank()]
        return [*ours, rs.NDCG(k=3, name="rs_ndcg"), rs.MeanReciprocalRank(name="rs_mrr"), rs.RecallAtK(k=3, name="rs")]

    with strategy.scope():
        model = keras.Sequential([keras.Input((7,)), keras.layers.Activation("linear")])
        model.compile("sgd", "mse", metrics=given())
    found = model.evaluate(dataset((items, relevance), 16), verbose=0, return_dict=True)
    for metric in given():
        metric.update_state(relevance, items)
        assert found[metric.name] == pytest.approx(float(metric.result()), abs=1e-6), metric.name
    assert found["ndcg"] == pytest.approx(found["rs_ndcg"], abs=1e-6)
    assert found["mean_reciprocal_rank"] == pytest.approx(found["rs_mrr"], abs=1e-6)
