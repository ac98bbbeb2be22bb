"""`AUC`, with buckets; and `ExactAUC`, by sorting."""

from typing import Any

import keras
import tensorflow as tf

from tfps.checks import check_bool, check_integer
from tfps.metrics.batches import check_probabilities, read_batch
from tfps.metrics.collecting import LIMIT, CollectingMetric
from tfps.metrics.examples import Examples
from tfps.metrics.pairs import count_pairs
from tfps.metrics.sums import SumMetric, ratio
from tfps.types import Nest

_MOST_LOGIT = 14.0
"""Scores beyond this logit share the first or the last bucket: a probability of 8e-7, or as near to 1."""


@keras.saving.register_keras_serializable("tfps")
class AUC(SumMetric):
    """The area under the ROC curve: the probability that a positive example scores above a negative one.

    Scores are counted in buckets of equal width on the scale of logits, from -14 to 14, so that probabilities near 0
    and 1 are told apart. Two examples in one bucket count as a tie. So the result differs from the exact one by at most
    `error_bound`, which is larger where all scores are nearly equal, as before training.

    Cost: 16 bytes a bucket in the result of each closure. Memory: the same on the chief and on each worker.

    Args:
        num_buckets: the number of buckets.
        from_logits: whether predictions are logits, not probabilities.
        name: the name of the metric.

    Raises:
        ConfigError: `num_buckets` is less than 2.
    """

    def __init__(self, num_buckets: int = 8192, from_logits: bool = False, name: str = "auc") -> None:
        super().__init__(name)
        self.num_buckets = check_integer("num_buckets", num_buckets, at_least=2)
        self.from_logits = check_bool("from_logits", from_logits)
        # The weight of negative and of positive examples in each bucket.
        self._histogram = self.add_sum("histogram", (2, self.num_buckets))

    def update_state(self, y_true: Nest, y_pred: Nest, sample_weight: Nest = None) -> None:
        """Counts a batch.

        Args:
            y_true: labels of 0 or 1.
            y_pred: predictions, as many as labels.
            sample_weight: weights of the examples; None for 1.

        Raises:
            LabelError: a label is neither 0 nor 1, or a prediction is no probability.
        """
        batch = read_batch(self.name, y_true, y_pred, sample_weight)
        if not self.from_logits:
            batch = check_probabilities(self.name, batch)
        logits = batch.scores if self.from_logits else tf.math.log(batch.scores) - tf.math.log1p(-batch.scores)
        is_number = ~tf.math.is_nan(logits)
        places = (tf.clip_by_value(logits, -_MOST_LOGIT, _MOST_LOGIT) / (2 * _MOST_LOGIT) + 0.5) * self.num_buckets
        # A conversion of NaN to an integer is undefined. Its weight makes the result NaN instead.
        buckets = tf.cast(tf.where(is_number, places, 0.0), tf.int32)
        # A wrong label must not fail here, before the check of labels names it.
        is_positive = tf.cast(batch.labels > 0.5, tf.int32)
        buckets = tf.minimum(buckets, self.num_buckets - 1) + is_positive * self.num_buckets
        counted = tf.where(is_number | (batch.weights == 0), batch.weights, float("nan"))
        histogram = tf.math.unsorted_segment_sum(counted, buckets, 2 * self.num_buckets)
        self._histogram.assign_add(tf.reshape(histogram, [2, self.num_buckets]))

    def result(self) -> tf.Tensor:
        """Returns the AUC; NaN where one of the classes is missing."""
        negatives, positives = tf.unstack(tf.convert_to_tensor(self._histogram))
        below = tf.cumsum(negatives, exclusive=True)
        pairs = tf.reduce_sum(positives) * tf.reduce_sum(negatives)
        return ratio(tf.reduce_sum(positives * (below + negatives / 2)), pairs)

    def error_bound(self) -> tf.Tensor:
        """Returns the most by which the result may differ from the exact AUC: half of the pairs that share a bucket."""
        negatives, positives = tf.unstack(tf.convert_to_tensor(self._histogram))
        pairs = tf.reduce_sum(positives) * tf.reduce_sum(negatives)
        return ratio(tf.reduce_sum(positives * negatives) / 2, pairs)

    def get_config(self) -> dict[str, Any]:
        """Returns the settings."""
        return {**super().get_config(), "num_buckets": self.num_buckets, "from_logits": self.from_logits}


@keras.saving.register_keras_serializable("tfps")
class ExactAUC(CollectingMetric):
    """The area under the ROC curve by sorting all scores, as float32. Ties count half.

    Cost: see `GroupAUC`. Meant for evaluation: `AUC` is cheaper, and for training near enough.

    Args:
        limit: the most examples of an epoch.
        name: the name of the metric.

    Raises:
        ConfigError: `limit` is less than 1.
    """

    def __init__(self, limit: int = LIMIT, name: str = "exact_auc") -> None:
        super().__init__(None, limit, name)

    def _compute(self, examples: Examples) -> float:
        return count_pairs(examples).auc

    def get_config(self) -> dict[str, Any]:
        """Returns the settings."""
        return {"name": self.name, "limit": self.limit}
