"""`Sliced`: a metric for each value of an input feature."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfps.checks import check_bool, check_list, check_type, show_value
from tfps.errors import ConfigError
from tfps.keras.features import check_by
from tfps.keras.hooks import features as feature_hooks
from tfps.metrics.batches import feature_of, spread
from tfps.metrics.nested import NestingMetric, copy_metric
from tfps.types import Nest, is_integer


@keras.saving.register_keras_serializable("tfps")
class Sliced(NestingMetric):
    """A metric for each of some values of an input feature, and for the rest.

    The results of `Sliced(AUC(), by="country", values=["DE", "FR"])` are "auc_country_DE", "auc_country_FR" and
    "auc_country_others".

    Cost: that of the metric, for each value: an example counts with weight 0 in the others.

    Args:
        metric: the metric. Each value has a copy of it.
        by: the input feature: a key of a dictionary of inputs, the name of a `keras.Input`, or the index of an input or
            column.
        values: the values that have a metric of their own, all integers or all strings.
        others: whether all other values together have one as well.
        name: the name of the metric, with which the names of the results begin; by default that of `metric` and `by`.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    def __init__(
        self,
        metric: keras.metrics.Metric,
        by: str | int,
        values: Sequence[str] | Sequence[int],
        others: bool = True,
        name: str | None = None,
    ) -> None:
        check_type("metric", metric, keras.metrics.Metric, "a Keras metric")
        by = check_by("by", by)
        super().__init__(metric, f"{metric.name}_{by}" if name is None else name)
        self.by, self.values, self.others = by, _check_values(values), check_bool("others", others)
        if self.others and "others" in self.values:
            raise ConfigError(
                "`values` must not have 'others', under which the other values are counted. Received: "
                f"{show_value(values)}. Valid: others=False with it."
            )
        feature_hooks.install()
        labels = [str(value) for value in self.values] + (["others"] if self.others else [])
        self._parts = [copy_metric(metric, f"{self.name}_{label}") for label in labels]

    def update_state(self, y_true: Nest, y_pred: Nest, sample_weight: Nest = None, groups: Nest = None) -> None:
        """Updates the metric of each value with the examples that have it.

        Args:
            y_true: the labels.
            y_pred: the predictions.
            sample_weight: weights of the examples; None for 1.
            groups: the values of the feature, [batch]; None to read the feature `by`.

        Raises:
            ConfigError: the model has no feature `by`, or one of another type than `values`.
        """
        feature = feature_of(self.name, self.by, groups)
        if not (feature.dtype == tf.string or feature.dtype.is_integer or feature.dtype.is_bool):
            raise ConfigError(
                f"`groups` of metric {self.name!r} must be integers or strings. Received: {feature.dtype.name}."
            )
        if (feature.dtype == tf.string) != isinstance(self.values[0], str):
            raise ConfigError(
                f"`values` of metric {self.name!r} must have the type of feature {self.by!r}, {feature.dtype.name}. "
                f"Received: {show_value(self.values)}."
            )
        feature = tf.reshape(feature if feature.dtype == tf.string else tf.cast(feature, tf.int64), [-1])
        masks = [tf.equal(feature, value) for value in self.values]
        if self.others:
            masks.append(~tf.reduce_any(tf.stack(masks), 0))
        for part, mask in zip(self._parts, masks, strict=True):
            part.update_state(y_true, y_pred, sample_weight=_weights(sample_weight, mask))

    def result(self) -> dict[str, Any]:
        """Returns the result for each value, by the name of the metric and the value."""
        return {part.name: part.result() for part in self._parts}

    def get_config(self) -> dict[str, Any]:
        """Returns the settings."""
        return {**super().get_config(), "by": self.by, "values": list(self.values), "others": self.others}


def _weights(sample_weight: Nest, mask: tf.Tensor) -> tf.Tensor:
    """Returns the weights of the examples of a mask, and 0 for all others."""
    if sample_weight is None:
        return tf.cast(mask, tf.float32)
    weights = tf.convert_to_tensor(sample_weight)
    return tf.where(tf.reshape(spread(mask, weights), tf.shape(weights)), weights, tf.zeros_like(weights))


def _check_values(values: object) -> list[str] | list[int]:
    rule = "a list of different integers or of different strings, at least one"
    found = check_list("values", values, rule)
    kinds = {str if isinstance(one, str) else int if is_integer(one) else None for one in found}
    if len(kinds) != 1 or None in kinds or len({*found}) < len(found):
        raise ConfigError(f"`values` must be {rule}. Received: {show_value(values)}.")
    if kinds == {int} and not all(-(2**63) <= int(one) < 2**63 for one in found):
        raise ConfigError(f"`values` must be integers of 64 bits. Received: {show_value(values)}.")
    return [str(one) for one in found] if kinds == {str} else [int(one) for one in found]
