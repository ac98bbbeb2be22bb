"""The values of the metrics of lists: the mean over all orders of tied items; NDCG also that of scikit-learn."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import ndcg_score

from tests.metrics import twins
from tfps import metrics
from tfps.errors import ConfigError, LabelError

LISTS, ITEMS = 12, 6


def lists(seed, most):
    """Relevances with padding, scores with ties, and weights; one list has no relevant item."""
    rng = np.random.default_rng(seed)
    relevance = rng.integers(0, most + 1, (LISTS, ITEMS))
    relevance[rng.random((LISTS, ITEMS)) < 0.1] = -1
    relevance[3] = 0
    return relevance, rng.integers(0, 4, (LISTS, ITEMS)) / 4, rng.integers(0, 3, LISTS) / 2


KINDS = {
    "recall": (lambda k: metrics.RecallAtK(k), lambda k: twins.recall(k), 1),
    "mrr": (lambda k: metrics.MeanReciprocalRank(k), lambda k: twins.reciprocal_rank(k), 1),
    "ndcg": (lambda k: metrics.NDCG(k), lambda k: twins.ndcg(k, lambda one: one), 4),
    "exponential": (
        lambda k: metrics.NDCG(k, gain="exponential"),
        lambda k: twins.ndcg(k, lambda one: 2**one - 1),
        4,
    ),
}


@pytest.mark.parametrize("k", [1, 3, 100])
@pytest.mark.parametrize("name", KINDS)
def test_means_over_all_orders(name, k):
    make, twin, most = KINDS[name]
    relevance, scores, weights = lists(k, most)
    metric = make(k)
    metric.update_state(relevance[:5], scores[:5], weights[:5])
    metric.update_state(relevance[5:], scores[5:], weights[5:, None])
    expected = twins.of_lists(twin(k), relevance.tolist(), scores.tolist(), weights.tolist())
    assert float(metric.result()) == pytest.approx(expected, abs=1e-9)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert copy.get_config() == metric.get_config()
    # As in a function, and without weights.
    tf.function(copy.update_state)(tf.constant(relevance), tf.constant(scores, tf.float32))
    expected = twins.of_lists(twin(k), relevance.tolist(), scores.tolist(), [1] * LISTS)
    assert float(copy.result()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [None, 4])
def test_ndcg_is_that_of_scikit_learn(k):
    rng = np.random.default_rng(0)
    relevance, scores = rng.integers(0, 5, (50, 30)), rng.integers(0, 10, (50, 30)) / 10
    metric = metrics.NDCG(k)
    metric.update_state(relevance, scores)
    assert float(metric.result()) == pytest.approx(ndcg_score(relevance, scores, k=k), abs=1e-12)


def test_no_list_counts():
    for metric in metrics.RecallAtK(2), metrics.NDCG(), metrics.MeanReciprocalRank():
        assert np.isnan(float(metric.result()))
        metric.update_state([[0, 0, -1]], [[0.1, 0.2, 0.3]])
        assert np.isnan(float(metric.result()))
        metric.update_state([[0, 1, 1]], [[0.1, 0.2, np.nan]])
        assert np.isnan(float(metric.result()))


def test_refusals():
    for make in metrics.RecallAtK, metrics.NDCG, metrics.MeanReciprocalRank:
        for bad in (0, -1, 1.5):
            with pytest.raises(ConfigError, match=f"`k` must be an integer of at least 1. Received: {bad}"):
                make(bad)
        name = make(1).name
        with pytest.raises(ConfigError, match=rf"metric '{name}' must be lists of one length.*\(2,\)"):
            make(1).update_state([0, 1], [0.1, 0.2])
        with pytest.raises(ConfigError, match="lists of one length"):
            make(1).update_state([[0, 1]], [[0.1, 0.2, 0.3]])
        with pytest.raises(LabelError, match=f"metric '{name}'.*Received: -2.0"):
            make(1).update_state([[0, -2]], [[0.1, 0.2]])
        with pytest.raises(ConfigError, match=f"`sample_weight` of metric '{name}' must have one weight for each list"):
            make(1).update_state([[0, 1]], [[0.1, 0.2]], [[0.5, 0.5]])
    with pytest.raises(ConfigError, match="`k`.*None"):
        metrics.RecallAtK(None)
    with pytest.raises(ConfigError, match="`gain`.*'log'"):
        metrics.NDCG(gain="log")
    for make in metrics.RecallAtK, metrics.MeanReciprocalRank:
        with pytest.raises(LabelError, match="must be 0 or 1, or -1 for padding. Received: 2.0"):
            make(1).update_state([[0, 2]], [[0.1, 0.2]])
