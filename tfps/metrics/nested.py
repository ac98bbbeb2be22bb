"""`NestingMetric`: the base of metrics that update other metrics."""

from collections.abc import Iterable
from typing import Any

import keras

from tfps.metrics.sums import check_same


class NestingMetric(keras.metrics.Metric):
    """A metric that hands its batches to copies of another.

    Args:
        metric: the other metric. It is never updated itself.
        name: the name of this metric.
    """

    def __init__(self, metric: keras.metrics.Metric, name: str) -> None:
        super().__init__(name=name)
        # A configuration and no metric: Keras would track the variables of one.
        self._inner = keras.saving.serialize_keras_object(metric)

    def reset_state(self) -> None:
        """Resets the metrics within."""
        # Keras would set their variables to 0, and not ask them.
        for metric in self._metrics:
            metric.reset_state()

    def merge_state(self, metrics: Iterable["NestingMetric"]) -> None:
        """Adds what other metrics of the same kind have counted.

        Args:
            metrics: metrics of the same class and settings.

        Raises:
            ConfigError: a metric is of another class, or has other settings.
        """
        for other in metrics:
            check_same(self, other)
            for mine, theirs in zip(self._metrics, other._metrics, strict=True):
                mine.merge_state([theirs])

    def get_config(self) -> dict[str, Any]:
        """Returns the settings."""
        return {"name": self.name, "metric": self._inner}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NestingMetric":
        """Creates a metric from its settings."""
        inner = config["metric"]
        if not isinstance(inner, keras.metrics.Metric):
            inner = keras.saving.deserialize_keras_object(inner)
        return cls(**{**config, "metric": inner})


def copy_metric(metric: keras.metrics.Metric, name: str) -> keras.metrics.Metric:
    """Returns a metric of the same class and settings, with its own state.

    Args:
        metric: the metric.
        name: the name of the copy.
    """
    return type(metric).from_config({**metric.get_config(), "name": name})
