"""Hooks for metrics that read an input feature, test before the step trains, or need all examples for their result.

They are installed when the first such metric is made, and apply to models of any strategy or none.
Threading: the threads that trace steps.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfps.keras import features, untrained
from tfps.keras._compat import TensorFlowTrainer, Trainer, keras, metrics_of
from tfps.keras.features import Features
from tfps.keras.hooks import replacing
from tfps.keras.hooks.replacing import Method
from tfps.keras.model_steps import buffers_of
from tfps.keras.returned_logs import flatten_logs
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.types import Nest

_INSTALLED: set[str] = set()


def install() -> None:
    """Installs the hook that hands features to metrics. A second call does nothing."""
    if "features" not in _INSTALLED:
        _INSTALLED.add("features")
        replacing.replace(Trainer, "compute_metrics", _compute_metrics, lambda *args, **kwargs: True)


def install_untrained() -> None:
    """Installs the hook that predicts before a step trains as well. A second call does nothing."""
    install()
    if "untrained" not in _INSTALLED:
        _INSTALLED.add("untrained")
        replacing.replace(TensorFlowTrainer, "train_step", _train_step, untrained.is_wanted)
        replacing.replace(TensorFlowTrainer, "test_step", _test_step, untrained.is_wanted)


def install_results() -> None:
    """Installs the hook that ends an epoch with the results of metrics that collect examples; once."""
    if "results" not in _INSTALLED:
        _INSTALLED.add("results")
        replacing.replace(TensorFlowTrainer, "_get_metrics_result_or_logs", _metrics_result_or_logs, _collects)


def _collects(model: keras.Model, *args: object, **kwargs: object) -> bool:
    # The logs of our strategy have the results already.
    of_ours = isinstance(model._distribute_strategy, ParameterServerStrategy)
    return not of_ours and any(buffers_of(metric) for metric in metrics_of(model))


def _metrics_result_or_logs(stock: Method, model: keras.Model, logs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Replaces what the graph of a step does not know, where Keras keeps the logs of the last step.

    It keeps them if their names are not those of the results, as with a metric that has several results.
    """
    found = flatten_logs(stock(model, logs) or {})
    results = flatten_logs(model.get_metrics_result())
    return {name: results[name] if name in results and _is_nan(value) else value for name, value in found.items()}


def _is_nan(value: Any) -> bool:
    """Whether a log is a number that is NaN."""
    return bool(np.ndim(value) == 0 and np.isnan(value))


def _compute_metrics(
    stock: Method, model: keras.Model, x: Nest, y: Nest, y_pred: Nest, *args: Any, **kwargs: Any
) -> Any:
    """Keeps the features where metrics find them."""
    with features.using(Features(model, x, y_pred, untrained.prediction(model))):
        return stock(model, x, y, y_pred, *args, **kwargs)


def _train_step(stock: Method, model: keras.Model, data: Nest) -> Any:
    with untrained.predicted(model, data):
        return stock(model, data)


def _test_step(stock: Method, model: keras.Model, data: Nest) -> Any:
    with untrained.testing(model):
        return stock(model, data)
