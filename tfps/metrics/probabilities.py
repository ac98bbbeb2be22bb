"""Metrics of predicted probabilities: `LogLoss`, `NormalizedEntropy`, `Calibration`."""

from typing import Any

import keras
import tensorflow as tf

from tfps.checks import check_bool
from tfps.metrics.batches import Batch, check_probabilities, read_batch
from tfps.metrics.sums import SumMetric, ratio
from tfps.types import Nest

_EPSILON = 2.0**-23
"""The least distance of a probability from 0 and 1 in a logarithm, as in scikit-learn for float32."""
_MOST_LOGIT = 1e300


class ProbabilityMetric(SumMetric):
    """The base of metrics of predicted probabilities of two classes.

    Args:
        from_logits: whether predictions are logits, not probabilities.
        name: the name of the metric.
    """

    def __init__(self, from_logits: bool, name: str) -> None:
        super().__init__(name)
        self.from_logits = check_bool("from_logits", from_logits)
        self._weight = self.add_sum("weight")

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
        self._weight.assign_add(tf.reduce_sum(batch.weights))
        self._count(batch)

    def _count(self, batch: Batch) -> None:
        """Adds a batch to the sums of a subclass."""
        raise NotImplementedError

    def _log_losses(self, batch: Batch) -> tf.Tensor:
        """Returns the log loss of each label, float64 [n]."""
        if self.from_logits:
            # Infinite logits would make the loss of a right label inf - inf.
            logits = tf.where(tf.math.is_inf(batch.scores), tf.sign(batch.scores) * _MOST_LOGIT, batch.scores)
            return tf.nn.sigmoid_cross_entropy_with_logits(batch.labels, logits)
        predicted = tf.clip_by_value(batch.scores, _EPSILON, 1 - _EPSILON)
        return -batch.labels * tf.math.log(predicted) - (1 - batch.labels) * tf.math.log1p(-predicted)

    def get_config(self) -> dict[str, Any]:
        """Returns the settings."""
        return {**super().get_config(), "from_logits": self.from_logits}


@keras.saving.register_keras_serializable("tfps")
class LogLoss(ProbabilityMetric):
    """The mean of -(y log p + (1 - y) log(1 - p)), with p kept 2**-23 away from 0 and 1.

    Args:
        from_logits: whether predictions are logits, not probabilities.
        name: the name of the metric.
    """

    def __init__(self, from_logits: bool = False, name: str = "log_loss") -> None:
        super().__init__(from_logits, name)
        self._loss = self.add_sum("loss")

    def _count(self, batch: Batch) -> None:
        self._loss.assign_add(_weighted_sum(self._log_losses(batch), batch))

    def result(self) -> tf.Tensor:
        """Returns the mean log loss; NaN without examples."""
        return ratio(self._loss, self._weight)


@keras.saving.register_keras_serializable("tfps")
class NormalizedEntropy(ProbabilityMetric):
    """The log loss over that of a model which always predicts the mean label: below 1 is better than that model.

    NE = log loss / -(b log b + (1 - b) log(1 - b)), where b is the mean of the labels.

    Source: X. He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014.

    Args:
        from_logits: whether predictions are logits, not probabilities.
        name: the name of the metric.
    """

    def __init__(self, from_logits: bool = False, name: str = "normalized_entropy") -> None:
        super().__init__(from_logits, name)
        self._loss, self._positives = self.add_sum("loss"), self.add_sum("positives")

    def _count(self, batch: Batch) -> None:
        self._loss.assign_add(_weighted_sum(self._log_losses(batch), batch))
        self._positives.assign_add(tf.reduce_sum(batch.weights * batch.labels))

    def result(self) -> tf.Tensor:
        """Returns the normalized entropy; NaN where all labels are equal."""
        base = ratio(self._positives, self._weight)
        entropy = -tf.math.xlogy(base, base) - tf.math.xlog1py(1 - base, -base)
        mean = ratio(self._loss, self._weight)
        return tf.where(entropy > 0, mean / entropy, tf.constant(float("nan"), tf.float64))


@keras.saving.register_keras_serializable("tfps")
class Calibration(ProbabilityMetric):
    """The sum of predicted probabilities over the number of positive labels; 1 is right, and above 1 is too high.

    Source: X. He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014.

    Args:
        from_logits: whether predictions are logits, not probabilities.
        name: the name of the metric.
    """

    def __init__(self, from_logits: bool = False, name: str = "calibration") -> None:
        super().__init__(from_logits, name)
        self._predicted, self._positives = self.add_sum("predicted"), self.add_sum("positives")

    def _count(self, batch: Batch) -> None:
        predicted = tf.sigmoid(batch.scores) if self.from_logits else batch.scores
        self._predicted.assign_add(_weighted_sum(predicted, batch))
        self._positives.assign_add(tf.reduce_sum(batch.weights * batch.labels))

    def result(self) -> tf.Tensor:
        """Returns predicted over true positives; infinite or NaN without a positive label."""
        return ratio(self._predicted, self._positives)


def _weighted_sum(values: tf.Tensor, batch: Batch) -> tf.Tensor:
    """Returns the weighted sum of values of the labels. What has weight 0 counts for nothing, also if it is NaN."""
    return tf.reduce_sum(tf.math.multiply_no_nan(values, batch.weights))
