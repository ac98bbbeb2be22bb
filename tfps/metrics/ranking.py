"""Metrics of ranked lists: `RecallAtK`, `NDCG`, `MeanReciprocalRank`.

Each example is a list of items, with a relevance and a score for each. Where scores are equal, the result is the mean
over all orders of the tied items. A relevance of -1 marks padding, which is no item. Lists without a relevant item do
not count.
"""

from typing import Any

import keras
import tensorflow as tf

from tfps.checks import check_choice, check_integer
from tfps.errors import ConfigError
from tfps.metrics.ranks import RankedLists, discounts, rank_lists
from tfps.metrics.sums import SumMetric, ratio
from tfps.ops.label_check import check_labels
from tfps.types import Nest

_GAINS = ("linear", "exponential")


class RankingMetric(SumMetric):
    """The base of metrics that are means over lists.

    Args:
        k: the number of items at the top of a list that count; None for all.
        name: the name of the metric.
    """

    is_graded = False
    """Whether a relevance may be any number from 0 on, or only 0 or 1."""

    def __init__(self, k: int | None, name: str) -> None:
        super().__init__(name)
        self.k = None if k is None else check_integer("k", k, at_least=1)
        self._total, self._weight = self.add_sum("total"), self.add_sum("weight")

    def update_state(self, y_true: Nest, y_pred: Nest, sample_weight: Nest = None) -> None:
        """Counts a batch of lists.

        Args:
            y_true: the relevance of each item, [batch, items]; -1 for padding.
            y_pred: the score of each item, [batch, items].
            sample_weight: the weight of each list, [batch] or [batch, 1]; None for 1.

        Raises:
            LabelError: a relevance is not valid.
            ConfigError: the shapes are no lists.
        """
        relevance, scores = tf.convert_to_tensor(y_true), tf.cast(y_pred, tf.float64)
        if relevance.shape.rank != 2 or not relevance.shape.is_compatible_with(scores.shape):
            raise ConfigError(
                f"`y_true` and `y_pred` of metric {self.name!r} must be lists of one length, [batch, items]. Received: "
                f"shapes {relevance.shape} and {scores.shape}."
            )
        relevance = tf.cast(relevance, tf.float64)
        is_valid = (relevance == 0) | (relevance == 1) | (relevance == -1)
        if self.is_graded:
            is_valid = (relevance >= 0) | (relevance == -1)
        valid = "a number of at least 0" if self.is_graded else "0 or 1"
        check_labels(self.name, relevance, is_valid, f"{valid}, or -1 for padding")
        lists = rank_lists(tf.maximum(relevance, 0.0), scores, relevance >= 0)
        weights = self._list_weights(lists, sample_weight)
        self._weight.assign_add(tf.reduce_sum(weights))
        # A list with a score of NaN has no value. One that does not count may have none either, and must not add it.
        values = self._of_lists(lists) + 0.0 * tf.reduce_sum(lists.relevance, 1)
        values = tf.where(weights == 0, tf.zeros_like(weights), values)
        self._total.assign_add(tf.reduce_sum(weights * values))

    def _list_weights(self, lists: RankedLists, sample_weight: Nest) -> tf.Tensor:
        counted = tf.cast(tf.reduce_any(tf.not_equal(lists.relevance, 0.0), 1), tf.float64)
        if sample_weight is None:
            return counted
        weights = tf.cast(sample_weight, tf.float64)
        if weights.shape.rank not in (1, 2) or (weights.shape.rank == 2 and weights.shape[1] != 1):
            raise ConfigError(
                f"`sample_weight` of metric {self.name!r} must have one weight for each list. Received: shape "
                f"{weights.shape}. Valid: [batch] or [batch, 1]."
            )
        return counted * tf.reshape(weights, [-1])

    def _of_lists(self, lists: RankedLists) -> tf.Tensor:
        """Returns the value of each list, float64 [batch]."""
        raise NotImplementedError

    def _most(self, lists: RankedLists) -> tf.Tensor:
        """Returns the number of places that count, float64."""
        items = tf.shape(lists.relevance)[1]
        return tf.cast(items if self.k is None else tf.minimum(self.k, items), tf.float64)

    def result(self) -> tf.Tensor:
        """Returns the mean over lists; NaN without a list that counts."""
        return ratio(self._total, self._weight)

    def get_config(self) -> dict[str, Any]:
        """Returns the settings."""
        return {**super().get_config(), "k": self.k}


@keras.saving.register_keras_serializable("tfps")
class RecallAtK(RankingMetric):
    """The fraction of the relevant items that are among the k best scores, as a mean over lists.

    Args:
        k: the number of items at the top of a list.
        name: the name of the metric.

    Raises:
        ConfigError: `k` is less than 1.
    """

    def __init__(self, k: int, name: str = "recall_at_k") -> None:
        super().__init__(check_integer("k", k, at_least=1), name)

    def _of_lists(self, lists: RankedLists) -> tf.Tensor:
        # Of c tied items after a better ones, k - a are among the first k.
        among = tf.clip_by_value((self._most(lists) - lists.better) / lists.tied, 0.0, 1.0)
        return tf.reduce_sum(among * lists.relevance, 1) / tf.reduce_sum(lists.relevance, 1)


@keras.saving.register_keras_serializable("tfps")
class NDCG(RankingMetric):
    """Normalized discounted cumulative gain: sum of gain / log2(1 + rank), over that of the best order.

    Source: K. Jaervelin and J. Kekaelaeinen, Cumulated gain-based evaluation of IR techniques, TOIS 2002. With a linear
    gain it is `sklearn.metrics.ndcg_score`.

    Args:
        k: the number of items at the top of a list that count; None for all.
        gain: "linear" for the relevance itself, "exponential" for 2**relevance - 1.
        name: the name of the metric.

    Raises:
        ConfigError: `k` is less than 1, or `gain` is not valid.
    """

    is_graded = True

    def __init__(self, k: int | None = None, gain: str = "linear", name: str = "ndcg") -> None:
        super().__init__(k, name)
        self.gain = check_choice("gain", gain, _GAINS)

    def _of_lists(self, lists: RankedLists) -> tf.Tensor:
        gains = lists.relevance if self.gain == "linear" else tf.pow(tf.constant(2.0, tf.float64), lists.relevance) - 1
        table = discounts(tf.shape(gains)[1], self._most(lists))
        # Tied items share the mean of the discounts of their places.
        first, end = tf.cast(lists.better, tf.int32), tf.cast(lists.better + lists.tied, tf.int32)
        mean = (tf.gather(table, end) - tf.gather(table, first)) / lists.tied
        best = tf.sort(gains, direction="DESCENDING") * (table[1:] - table[:-1])
        return tf.reduce_sum(gains * mean, 1) / tf.reduce_sum(best, 1)

    def get_config(self) -> dict[str, Any]:
        """Returns the settings."""
        return {**super().get_config(), "gain": self.gain}


@keras.saving.register_keras_serializable("tfps")
class MeanReciprocalRank(RankingMetric):
    """The mean of 1 / rank of the first relevant item; 0 for a list that has none among the first k.

    Source: E. Voorhees, The TREC-8 Question Answering Track Report, 1999.

    Args:
        k: the number of items at the top of a list that count; None for all.
        name: the name of the metric.

    Raises:
        ConfigError: `k` is less than 1.
    """

    def __init__(self, k: int | None = None, name: str = "mean_reciprocal_rank") -> None:
        super().__init__(k, name)

    def _of_lists(self, lists: RankedLists) -> tf.Tensor:
        is_relevant = lists.relevance > 0
        # The first relevant item is among the tied items of the best relevant score: `relevant` of `tied` items, after
        # `better` others.
        better = tf.reduce_min(tf.where(is_relevant, lists.better, tf.constant(float("inf"), tf.float64)), 1)[:, None]
        is_first = is_relevant & (lists.better == better)
        relevant = tf.reduce_sum(tf.cast(is_first, tf.float64), 1, keepdims=True)
        tied = tf.reduce_max(tf.where(is_first, lists.tied, tf.zeros_like(lists.tied)), 1, keepdims=True)
        # In a random order of the tied items it is at place j with probability C(tied - j, relevant - 1) /
        # C(tied, relevant).
        place = tf.range(1, tf.shape(is_first)[1] + 1)[None, :]
        place = tf.cast(place, tf.float64)
        is_possible = (place <= tied - relevant + 1) & (place + better <= self._most(lists))
        rest = tf.where(is_possible, tied - place, relevant - 1)
        log = _log_choose(rest, relevant - 1) - _log_choose(tied, relevant)
        return tf.reduce_sum(tf.where(is_possible, tf.exp(log) / (better + place), tf.zeros_like(log)), 1)


def _log_choose(n: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
    """Returns the logarithm of the binomial coefficient C(n, k)."""
    return tf.math.lgamma(n + 1) - tf.math.lgamma(k + 1) - tf.math.lgamma(n - k + 1)
