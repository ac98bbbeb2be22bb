"""The values of the metrics of two classes: those of scikit-learn and of loops over pairs, for ties and weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics as sklearn

from tests.metrics import twins
from tfps import metrics
from tfps.errors import BufferLimitError, ConfigError, LabelError

N = 120


def examples(seed, is_weighted):
    """Labels, scores with many ties, weights of which some are 0, and groups; some groups have one class only."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, N)
    scores = np.clip(0.3 * labels + rng.random(N) * 0.7, 0.1, 0.9).round(1).astype("float32")
    weights = rng.integers(0, 4, N) / 2 if is_weighted else np.ones(N)
    groups = rng.integers(0, 9, N)
    labels[groups == 7], labels[groups == 8] = 0, 1
    return labels, scores, weights, groups


def updated(metric, *arrays, parts=3, **more):
    """A metric after several batches."""
    for part in range(parts):
        metric.update_state(*(one[part::parts] for one in arrays), **{k: v[part::parts] for k, v in more.items()})
    return metric


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_auc(seed, is_weighted):
    labels, scores, weights, _ = examples(seed, is_weighted)
    expected = sklearn.roc_auc_score(labels, scores, sample_weight=weights)
    assert expected == pytest.approx(twins.auc(labels, scores, weights))
    # All scores are multiples of 0.1, so that no two different ones share a bucket.
    for metric in metrics.AUC(), metrics.ExactAUC():
        assert float(updated(metric, labels, scores, weights).result()) == pytest.approx(expected, abs=1e-12)
    logits = np.log(scores / (1 - scores))
    assert float(updated(metrics.AUC(from_logits=True), labels, logits, weights).result()) == pytest.approx(expected)


def test_auc_is_as_near_as_it_says():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 4000)
    scores = np.clip(rng.normal(0.4 + 0.1 * labels, 0.15), 0.001, 0.999)
    few, many = metrics.AUC(num_buckets=40), metrics.AUC()
    exact = sklearn.roc_auc_score(labels, scores)
    for metric, most in (few, 0.2), (many, 0.001):
        metric.update_state(labels, scores)
        assert 0 < abs(float(metric.result()) - exact) <= float(metric.error_bound()) < most


@pytest.mark.parametrize("weighting", ["examples", "positives", "groups"])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_group_auc(weighting, is_weighted):
    labels, scores, weights, groups = examples(2, is_weighted)
    expected = twins.group_auc(labels, scores, weights, groups, weighting)
    for kind in (groups * 10**17, np.array([f"user {g}" for g in groups])):
        metric = updated(metrics.GroupAUC("user", weighting), labels, scores, weights, groups=kind)
        assert float(metric.result()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_positive_negative_ratio(is_weighted):
    labels, scores, weights, groups = examples(3, is_weighted)
    metric = updated(metrics.PositiveNegativeRatio(by=0), labels, scores, weights, groups=groups)
    expected = twins.positive_negative_ratio(labels, scores, weights, groups)
    assert float(metric.result()) == pytest.approx(expected, abs=1e-12)
    metric = updated(metrics.PositiveNegativeRatio(), labels, scores, weights)
    expected = twins.positive_negative_ratio(labels, scores, weights, [0] * N)
    assert float(metric.result()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("from_logits", [False, True])
def test_probabilities(is_weighted, from_logits):
    labels, scores, weights, _ = examples(4, is_weighted)
    scores[:2] = 0.0, 1.0
    labels[:2] = 1, 1
    given = scores if not from_logits else np.log(np.clip(scores, 2**-23, 1 - 2**-23) / np.clip(1 - scores, 2**-23, 1))
    loss = sklearn.log_loss(labels, scores, sample_weight=weights)
    base = np.average(labels, weights=weights)
    entropy = sklearn.log_loss(labels, np.full(N, base), sample_weight=weights)
    expected = {
        metrics.LogLoss: loss,
        metrics.NormalizedEntropy: loss / entropy,
        metrics.Calibration: np.sum(weights * scores) / np.sum(weights * labels),
    }
    for kind, value in expected.items():
        metric = updated(kind(from_logits=from_logits), labels, given, weights)
        assert float(metric.result()) == pytest.approx(value, rel=1e-5)


ALL = {
    "auc": metrics.AUC,
    "exact": metrics.ExactAUC,
    "group": lambda: metrics.GroupAUC("user"),
    "ratio": metrics.PositiveNegativeRatio,
    "loss": metrics.LogLoss,
    "entropy": metrics.NormalizedEntropy,
    "calibration": metrics.Calibration,
}


def more_of(metric, groups):
    return {"groups": groups} if isinstance(metric, metrics.GroupAUC) else {}


@pytest.mark.parametrize("name", ALL)
def test_reset_merge_and_settings(name):
    labels, scores, weights, groups = examples(6, True)
    make, half = ALL[name], N // 2
    whole, first, second = make(), make(), make()
    whole.update_state(labels, scores, weights, **more_of(whole, groups))
    for metric, part in (first, slice(half)), (second, slice(half, N)):
        metric.update_state(labels[part], scores[part], weights[part], **more_of(metric, groups[part]))
    value = float(whole.result())
    assert float(first.result()) != value
    first.merge_state([second])
    assert float(first.result()) == pytest.approx(value, abs=1e-12)
    with pytest.raises(ConfigError, match="merge_state"):
        first.merge_state([keras.metrics.Mean()])
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(whole))
    assert type(copy) is type(whole) and copy.get_config() == whole.get_config()
    whole.reset_state()
    assert np.isnan(float(whole.result()))
    whole.update_state(labels, scores, weights, **more_of(whole, groups))
    assert float(whole.result()) == value


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_in_a_graph(name, jit):
    labels, scores, weights, groups = examples(7, True)
    eager, traced = ALL[name](), ALL[name]()

    @tf.function(jit_compile=jit)
    def update(labels, scores, weights, groups):
        traced.update_state(labels, scores[:, None], weights, **more_of(traced, groups))
        return traced.result()

    update(labels, scores, weights, groups)
    for part in range(2):
        rows = slice(part, None, 2)
        update(labels[rows], scores[rows], weights[rows], groups[rows])
    for _ in range(2):
        eager.update_state(labels, scores, weights, **more_of(eager, groups))
    assert float(traced.result()) == pytest.approx(float(eager.result()), abs=1e-12)
    traced.reset_state()
    assert np.isnan(float(traced.result()))


@pytest.mark.parametrize("name", ALL)
def test_one_class_and_numbers_that_are_none(name):
    metric = ALL[name]()
    metric.update_state([0, 0, 0], [0.2, 0.4, 0.5], **more_of(metric, [1, 1, 2]))
    value = float(metric.result())
    assert np.isfinite(value) if name == "loss" else not np.isfinite(value)
    metric = ALL[name]()
    metric.update_state([0, 1, 1], [0.2, np.nan, 0.5], **more_of(metric, [1, 1, 1]))
    assert np.isnan(float(metric.result()))


@pytest.mark.parametrize("name", ALL)
def test_refusals(name):
    metric = ALL[name]()
    with pytest.raises(LabelError, match=rf"`y_true` of metric '{metric.name}' must be 0 or 1. Received: 3.0"):
        metric.update_state([0, 3], [0.5, 0.5], **more_of(metric, [0, 0]))
    with pytest.raises(ConfigError, match=rf"'{metric.name}' must have one prediction for each label"):
        metric.update_state([0, 1], np.ones((2, 3)), **more_of(metric, [0, 0]))


def test_refused_settings():
    for bad in (0, 2.5, True):
        with pytest.raises(ConfigError, match=f"`limit` must be an integer of at least 1. Received: {bad}"):
            metrics.ExactAUC(limit=bad)
    with pytest.raises(ConfigError, match="`num_buckets`.*Received: 1"):
        metrics.AUC(num_buckets=1)
    with pytest.raises(ConfigError, match="`weighting`.*'clicks'"):
        metrics.GroupAUC("user", weighting="clicks")
    for bad in ("", -1, 1.5, None):
        with pytest.raises(ConfigError, match="`by` must be the name or the index"):
            metrics.GroupAUC(by=bad)
    with pytest.raises(ConfigError, match="`groups` of metric 'group_auc' must be given"):
        metrics.GroupAUC("user").update_state([0, 1], [0.1, 0.2])
    with pytest.raises(ConfigError, match="`groups` of metric 'group_auc' must be integers or strings.*float"):
        metrics.GroupAUC("user").update_state([0, 1], [0.1, 0.2], groups=[0.5, 0.5])


def test_more_examples_than_the_limit():
    metric = metrics.ExactAUC(limit=3, name="mine")
    metric.update_state([0, 1, 1], [0.1, 0.2, 0.3])
    # Those of weight 0 do not count.
    metric.update_state([0, 1], [0.1, 0.2], [0.0, 0.0])
    with pytest.raises(BufferLimitError, match=r"`limit` of metric 'mine' .*Received: 3, and 4 examples"):
        metric.update_state([1], [0.3])
    traced = metrics.ExactAUC(limit=3, name="mine")
    update = tf.function(traced.update_state)
    update(tf.constant([0, 1]), tf.constant([0.1, 0.2]), tf.constant([1.0, 1.0]))
    assert float(traced.result()) == 1.0
    update(tf.constant([0, 1]), tf.constant([0.1, 0.2]), tf.constant([1.0, 1.0]))
    with pytest.raises(BufferLimitError, match="Received: 3, and 4 examples"):
        traced.result()


def test_counts_are_exact_beyond_float32():
    metric = metrics.Calibration()
    for _ in range(3):
        metric.update_state([1], [1.0], np.array([2.0**24 + 1]))
    assert float(metric.variables[0]) == 3 * (2**24 + 1)
