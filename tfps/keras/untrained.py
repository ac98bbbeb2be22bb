"""What a model predicts for a batch before it trains on it: test, then train (progressive validation).

Threading: each thread has its own prediction, because the threads of several workers trace at the same time.
"""

import contextlib
import inspect
import threading
from collections.abc import Iterator

from tfps.keras._compat import keras, metrics_of
from tfps.types import Nest


class _Current(threading.local):
    """The prediction of each thread and the model that made it; and the model whose `test_step` runs."""

    model: keras.Model | None = None
    tests: keras.Model | None = None
    prediction: Nest = None


_CURRENT = _Current()


def is_wanted(model: keras.Model, *args: object, **kwargs: object) -> bool:
    """Whether a model has a metric that tests before the step trains."""
    return any(_tests_first(metric) for metric in metrics_of(model)) or _tests_first(model._compile_metrics)


def _tests_first(metric: object) -> bool:
    """Whether a metric, or one within it, tests before the step trains."""
    if getattr(metric, "tfps_tests_first", False):
        return True
    inner = [*getattr(metric, "metrics", ()), *getattr(metric, "_metrics", ())]
    # Before the compiled metrics of Keras are built, they only know what the user gave.
    given = [getattr(metric, "_user_metrics", None), getattr(metric, "_user_weighted_metrics", None)]
    inner += keras.tree.flatten(given)
    return any(_tests_first(one) for one in inner if isinstance(one, keras.metrics.Metric))


@contextlib.contextmanager
def predicted(model: keras.Model, data: Nest) -> Iterator[None]:
    """Predicts a batch, if training predicts it otherwise; `prediction` returns it within.

    Cost: a forward pass, for models with a layer that trains otherwise than it predicts, such as Dropout.
    """
    before = _CURRENT.model, _CURRENT.prediction
    prediction = None
    if _trains_otherwise(model):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        prediction = model(x, training=False)
    _CURRENT.model, _CURRENT.prediction = model, prediction
    try:
        yield
    finally:
        _CURRENT.model, _CURRENT.prediction = before


def prediction(model: keras.Model) -> Nest:
    """Returns the prediction of the batch under way; None if there is none, or training predicts the same."""
    return _CURRENT.prediction if _CURRENT.model is model else None


@contextlib.contextmanager
def testing(model: keras.Model) -> Iterator[None]:
    """Marks that a step of the model tests, and does not train."""
    before, _CURRENT.tests = _CURRENT.tests, model
    try:
        yield
    finally:
        _CURRENT.tests = before


def is_in_known_step(model: keras.Model) -> bool:
    """Whether a `train_step` or `test_step` of Keras is under way, and no step of the user's own."""
    return model in (_CURRENT.model, _CURRENT.tests)


def _trains_otherwise(model: keras.Model) -> bool:
    """Whether a layer of the model may compute something else in training."""
    containers = (keras.Sequential,)
    layers = [one for one in model._flatten_layers() if not isinstance(one, containers) and not _is_functional(one)]
    return any("training" in inspect.signature(layer.call).parameters for layer in layers if not _is_plain_dense(layer))


def _is_plain_dense(layer: keras.layers.Layer) -> bool:
    """Whether a layer takes `training` for its quantized form alone."""
    return type(layer) in (keras.layers.Dense, keras.layers.EinsumDense) and not layer.quantization_mode


def _is_functional(layer: keras.layers.Layer) -> bool:
    """Whether a layer only runs the layers that it consists of."""
    return isinstance(layer, keras.Model) and hasattr(layer, "_functional") or type(layer).__name__ == "Functional"
