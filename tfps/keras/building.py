"""Builds models whose own steps make their variables: a GAN without a `call`, a tower that only `compute_loss` calls.

Under a strategy, Keras builds a model by its `call` alone and then the optimizer for the variables that it has found so
far. In one process it does neither: the first step builds everything. So a model with a step of its own is built by
tracing this step once, in a graph that is thrown away. The optimizer builds itself in it.

Threading: the main thread.
"""

import weakref
from collections.abc import Callable

import keras
import tensorflow as tf

from tfps.errors import TfpsError
from tfps.inputs.chief_dataset import as_tensor
from tfps.keras import eager_steps
from tfps.keras._compat import compute_output_spec, functional_outputs, standardize_dtype, tree
from tfps.keras.model_steps import ModelSteps
from tfps.keras.multi_optimizer import unscaled
from tfps.keras.optimizers import optimizers_of
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.types import Nest

_METHODS = ("train_step", "test_step", "compute_loss", "compute_metrics")
"""Methods of a model that may call layers which `call` does not call."""
_BATCHES: "weakref.WeakKeyDictionary[keras.Model, Nest]" = weakref.WeakKeyDictionary()
"""A batch, or its spec, of each model that a step of its own has to build."""
_BUILT: "weakref.WeakKeyDictionary[keras.Model, set[str]]" = weakref.WeakKeyDictionary()
"""The steps that have built each model: "train" or "test"."""


def begin(model: keras.Model, batch: Nest) -> None:
    """Builds a model for batches like `batch`, or leaves it to `finish`, which knows the step.

    Args:
        model: a Keras model of our strategy.
        batch: a batch, or its spec.
    """
    own = any(getattr(type(model), name) is not getattr(keras.Model, name) for name in _METHODS)
    if own and not all(layer.built for layer in model._flatten_layers()):
        _BATCHES[model] = batch
        return
    try:
        _build_by_outputs(model, batch)
        model._symbolic_build(data_batch=batch)
    except TfpsError:
        raise
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        # Keras reports what a layer raises as a RuntimeError of its own.
        if isinstance(error.__context__, TfpsError):
            raise
        # Keras cannot build this model from specs: its `call` takes a gradient of a weight, say. If its step fails as
        # well, that error is the user's.
        _BATCHES[model] = batch


def _build_by_outputs(model: keras.Model, batch: Nest) -> None:
    """Builds the loss and the metrics of a built functional model, whose outputs are known without calling it.

    Keras would trace the whole model for their specs: a tenth of the time to a first step. Models of any other kind are
    left to Keras.

    Args:
        model: a Keras model of our strategy.
        batch: the spec of a batch, or a batch.
    """
    outputs = functional_outputs(model)
    if outputs is None or not all(layer.built for layer in model._flatten_layers()):
        return
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(tree.map_structure(_as_symbol, batch))
    inputs = tree.flatten(x)
    size = inputs[0].shape[0] if inputs and inputs[0].shape else None
    predicted = tree.map_structure(lambda one: keras.KerasTensor((size, *one.shape[1:]), one.dtype), outputs)
    for part, build, options in (
        (model._compile_metrics, model.compute_metrics, {}),
        (model._compile_loss, model.compute_loss, {"training": False}),
    ):
        if part is not None and not part.built:
            compute_output_spec(build, x, y, predicted, sample_weight=sample_weight, **options)


def _as_symbol(value: Nest) -> Nest:
    return None if value is None else keras.KerasTensor(value.shape, standardize_dtype(value.dtype))


def build_ahead(model: keras.Model, spec: Nest) -> None:
    """Builds a compiled model before its first step, optimizer included, so that it can be restored.

    Args:
        model: a compiled model, of any strategy or none.
        spec: the spec of a batch.
    """
    if model._distribute_strategy is None:
        model._symbolic_build(data_batch=spec)
        return
    model._maybe_symbolic_build(data_batch=spec)
    if isinstance(model._distribute_strategy, ParameterServerStrategy) and not eager_steps.runs_eagerly(model):
        build_optimizers(model, spec)


def finish(model: keras.Model, kind: str, step: Callable[[Nest], Nest]) -> bool:
    """Builds a model that `begin` has left, by its step; returns whether it did.

    Args:
        model: the model.
        kind: "train" or "test".
        step: `model.train_step` or `model.test_step`.
    """
    batch = _BATCHES.pop(model, None)
    # A model that nothing calls, such as a GAN, never counts as built.
    if batch is None or kind in _BUILT.setdefault(model, set()):
        return False
    ModelSteps(model, step).record(tree.map_structure(_as_spec, batch))
    _BUILT[model].add(kind)
    return True


def build_optimizers(model: keras.Model, batch: Nest) -> None:
    """Builds the optimizers that only a step of the model's own applies, by tracing the step once.

    Args:
        model: a built model of our strategy.
        batch: a batch, or its spec.
    """
    # The compiled one needs no trace: it is for all variables.
    compiled = [id(one) for one in (model.optimizer, unscaled(model.optimizer))]
    if not all(optimizer.built or id(optimizer) in compiled for optimizer in optimizers_of(model)):
        ModelSteps(model, model.train_step).record(tree.map_structure(_as_spec, batch))


def _as_spec(value: Nest) -> Nest:
    # What a user passes to `train_on_batch` may be numbers.
    return value if isinstance(value, tf.TypeSpec) else as_tensor(value)
