"""Hooks for metrics that read an input feature, or that test before the step trains.

They are installed when the first such metric is made, and apply to models of any strategy or none.
Threading: the threads that trace steps.
"""

from typing import Any

from tfps.keras import features, untrained
from tfps.keras._compat import TensorFlowTrainer, Trainer, keras
from tfps.keras.features import Features
from tfps.keras.hooks import replacing
from tfps.keras.hooks.replacing import Method
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
