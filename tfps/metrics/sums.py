"""`SumMetric`: the base of metrics whose state is a sum over examples."""

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from tfps.errors import ConfigError
from tfps.types import Nest, Shape


class SumMetric(keras.metrics.Metric):
    """A metric that is computed from sums over examples, so that it is exact over any number of workers.

    The sums are float64: counts are exact up to 2**53, where those of Keras's own metrics, in float32, are up to 2**24.

    Args:
        name: the name of the metric.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name)

    def add_sum(self, name: str, shape: Shape = ()) -> keras.Variable:
        """Creates a sum of zero."""
        return self.add_variable(shape=shape, initializer="zeros", dtype="float64", name=name)

    def merge_state(self, metrics: Iterable["SumMetric"]) -> None:
        """Adds what other metrics of the same kind have counted.

        Args:
            metrics: metrics of the same class and settings.

        Raises:
            ConfigError: a metric is of another class, or has other settings.
        """
        for other in metrics:
            check_same(self, other)
            for mine, theirs in zip(self.variables, other.variables, strict=True):
                mine.assign_add(tf.convert_to_tensor(theirs))

    def get_config(self) -> dict[str, Any]:
        """Returns the settings."""
        return {"name": self.name}


def check_same(metric: keras.Metric, other: keras.Metric) -> None:
    """Refuses to merge a metric with another kind.

    Raises:
        ConfigError: the class or the settings differ.
    """
    mine, theirs = ({**one.get_config(), "name": ""} for one in (metric, other))
    if type(metric) is not type(other) or mine != theirs:
        raise ConfigError(
            f"`metrics` of merge_state of metric {metric.name!r} must be of its class and settings. Received: "
            f"{type(other).__name__} with {theirs}. Valid: {type(metric).__name__} with {mine}."
        )


def ratio(numerator: Nest, denominator: Nest) -> tf.Tensor:
    """Returns numerator / denominator, float64; NaN where the denominator is 0."""
    return tf.cast(numerator, tf.float64) / tf.cast(denominator, tf.float64)
