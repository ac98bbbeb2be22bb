"""`CollectingMetric`: the base of metrics whose result no sum over examples gives: they need the examples."""

import weakref
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfps import step
from tfps.checks import check_integer
from tfps.errors import UnsupportedError
from tfps.keras._compat import in_stateless_scope
from tfps.keras.features import check_by
from tfps.keras.hooks import features as feature_hooks
from tfps.metrics.batches import group_ids, read_batch
from tfps.metrics.examples import WIDTH, Examples, from_rows, to_rows
from tfps.metrics.graph_examples import GraphExamples
from tfps.metrics.sums import check_same
from tfps.strategy.example_buffer import ExampleBuffer
from tfps.types import Nest

LIMIT = 1_000_000
"""The most examples of an epoch by default: 20 MB."""


class CollectingMetric(keras.metrics.Metric):
    """Collects the label, score, weight and group of each example, and computes its result from all of them.

    Under parameter servers a closure returns the examples of its steps in the same message as its sums, and the chief
    keeps them. In a graph the result is NaN until the epoch ends, because it would be computed anew for every batch.

    Args:
        by: the input feature that groups the examples: a key, a name or an index; None for a single group.
        limit: the most examples of an epoch.
        name: the name of the metric.

    Attributes:
        tfps_buffer: the examples.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    def __init__(self, by: str | int | None, limit: int, name: str) -> None:
        super().__init__(name=name)
        self.by = None if by is None else check_by("by", by)
        self.limit = check_integer("limit", limit, at_least=1)
        feature_hooks.install_results()
        if self.by is not None:
            feature_hooks.install()
        mine = weakref.WeakMethod(self._publish)
        self.tfps_buffer = ExampleBuffer(self.name, WIDTH, self.limit, lambda: _call(mine))
        self._in_graphs = GraphExamples(WIDTH, self.limit)
        # What graphs return: no graph has all examples.
        self._published = self.add_variable(
            shape=(), initializer=keras.initializers.Constant(float("nan")), dtype="float64", name="result"
        )

    def update_state(self, y_true: Nest, y_pred: Nest, sample_weight: Nest = None, groups: Nest = None) -> None:
        """Collects a batch.

        Args:
            y_true: labels of 0 or 1.
            y_pred: predictions, as many as labels.
            sample_weight: weights of the examples; None for 1. Examples of weight 0 are not collected.
            groups: the groups of the examples, integers or strings; None to read the feature `by`.

        Raises:
            LabelError: a label is neither 0 nor 1.
            ConfigError: the model has no feature `by`.
            BufferLimitError: there are more examples than `limit`.
        """
        batch = read_batch(self.name, y_true, y_pred, sample_weight)
        rows = to_rows(batch, group_ids(self.name, self.by, groups, y_pred))
        counts = batch.weights != 0
        # Keras only builds its metrics there.
        if in_stateless_scope():
            return
        current = step.current()
        if tf.executing_eagerly():
            self.tfps_buffer.add(tf.boolean_mask(rows, counts).numpy())
        elif current is None:
            self._in_graphs.push(rows, counts)
        elif current.by_hand:
            raise UnsupportedError(
                f"metric {self.name!r} cannot be updated in a step of a hand-written loop on parameter servers, which "
                "returns no examples. Received: update_state within strategy.run. Valid: fit and evaluate, or "
                "update_state on the chief."
            )
        else:
            self.tfps_buffer.push(tf.boolean_mask(rows, counts), current)

    def result(self) -> tf.Tensor:
        """Returns the result, float64; in a graph that of the last epoch that ended, or NaN.

        Raises:
            BufferLimitError: a graph has collected more examples than `limit`.
        """
        if not tf.executing_eagerly() or in_stateless_scope():
            return tf.convert_to_tensor(self._published)
        return tf.constant(self._compute(self._examples()), tf.float64)

    def reset_state(self) -> None:
        """Drops all examples."""
        self.tfps_buffer.clear()
        self._in_graphs.clear()
        self._published.assign(float("nan"))

    def merge_state(self, metrics: Iterable["CollectingMetric"]) -> None:
        """Adds the examples of other metrics of the same kind.

        Args:
            metrics: metrics of the same class and settings.

        Raises:
            ConfigError: a metric is of another class, or has other settings.
        """
        for other in metrics:
            check_same(self, other)
            self.tfps_buffer.add(other.tfps_buffer.rows())
            self.tfps_buffer.add(other._in_graphs.rows(other.tfps_buffer.check_size))

    def get_config(self) -> dict[str, Any]:
        """Returns the settings."""
        return {"name": self.name, "by": self.by, "limit": self.limit}

    def _examples(self) -> Examples:
        """Returns all examples."""
        in_graphs = self._in_graphs.rows(self.tfps_buffer.check_size)
        return from_rows(np.concatenate([self.tfps_buffer.rows(), in_graphs]))

    def _compute(self, examples: Examples) -> float:
        """Returns the result of examples."""
        raise NotImplementedError

    def _publish(self) -> None:
        """Computes the result for graphs and logs, when the chief has all examples of an epoch."""
        self._published.assign(self._compute(self._examples()))


def _call(method: "weakref.WeakMethod[Any]") -> None:
    found = method()
    if found is not None:
        found()
