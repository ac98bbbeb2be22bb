"""`Progressive`: test, then train."""

import keras

from tfps.checks import check_type
from tfps.errors import ConfigError
from tfps.keras import features, untrained
from tfps.keras._compat import in_stateless_scope
from tfps.keras.hooks import features as feature_hooks
from tfps.metrics.nested import NestingMetric, copy_metric
from tfps.types import Nest


@keras.saving.register_keras_serializable("tfps")
class Progressive(NestingMetric):
    """A metric of each batch before the model trains on it (progressive validation, prequential evaluation).

    In the first epoch over its data, and on a stream, it says what the model is worth on data that it has not seen, and
    no data is held out. The prediction is that of `model(x, training=False)` with the weights that the step begins
    with: those of the worker, which may lack the last steps of other workers. In `evaluate` it is the metric itself.

    Cost: none if no layer does something else in training; otherwise a forward pass in each step.

    Source: A. Blum, A. Kalai, J. Langford, Beating the hold-out: bounds for k-fold and progressive cross-validation,
    COLT 1999.

    Args:
        metric: the metric. It is copied.
        name: the name; by default "progressive_" and the name of `metric`.

    Raises:
        ConfigError: `metric` is no metric.
    """

    tfps_tests_first = True

    def __init__(self, metric: keras.metrics.Metric, name: str | None = None) -> None:
        check_type("metric", metric, keras.metrics.Metric, "a Keras metric")
        super().__init__(metric, f"progressive_{metric.name}" if name is None else name)
        feature_hooks.install_untrained()
        self._tested = copy_metric(metric, self.name)

    def update_state(self, y_true: Nest, y_pred: Nest, sample_weight: Nest = None, groups: Nest = None) -> None:
        """Updates the metric.

        Args:
            y_true: the labels.
            y_pred: the predictions; in a step that trains, those before the update are taken instead.
            sample_weight: weights of the examples; None for 1.
            groups: as of `metric`, if it takes them.

        Raises:
            ConfigError: a step of the user's own updates the metric, which may have trained before.
        """
        found = features.current()
        if found is not None:
            _check_step(found.model)
            y_pred = found.untrained_of(y_pred)
        more = {} if groups is None else {"groups": groups}
        self._tested.update_state(y_true, y_pred, sample_weight=sample_weight, **more)

    def result(self) -> Nest:
        """Returns the result of the metric."""
        return self._tested.result()


def _check_step(model: keras.Model) -> None:
    # Keras builds its metrics in a stateless scope, outside of steps.
    if not in_stateless_scope() and not untrained.is_in_known_step(model):
        raise ConfigError(
            "`metrics` must have no Progressive metric where a model has a `train_step` or `test_step` of its own that "
            f"does not call Keras's, because its prediction may be trained already. Received: {type(model).__name__}. "
            "Valid: the steps of keras.Model, or update_state with a prediction that was made before the update."
        )
