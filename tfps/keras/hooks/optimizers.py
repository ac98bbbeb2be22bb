"""Hooks into optimizers: slots are placed beside their variables, and servers update the rows.

Threading: every thread that traces a step.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfps import step
from tfps.errors import UnsupportedError
from tfps.keras import loss_scaling, moving_averages, optimizers
from tfps.keras._compat import UNREFERENCED_SLOTS, TFOptimizer, Variable, keras
from tfps.keras.finite_gradients import update_if_finite
from tfps.keras.hooks import replacing
from tfps.keras.hooks.replacing import Method
from tfps.keras.modes import ModeOptimizer
from tfps.keras.multi_optimizer import whole_of
from tfps.keras.slot_scope import slot_scope
from tfps.strategy.strategy import ParameterServerStrategy


def install() -> None:
    """Installs the hooks."""
    ours = lambda optimizer, *args, **kwargs: isinstance(optimizer._distribution_strategy, ParameterServerStrategy)  # noqa: E731
    replacing.replace(keras.optimizers.Optimizer, "apply", _apply, _shares_its_batch)
    replacing.replace(TFOptimizer, "add_variable_from_reference", _add_slot, ours)
    replacing.replace(TFOptimizer, "build", _build, ours)
    replacing.replace(TFOptimizer, "_backend_update_step", _update_step, ours)
    replacing.replace(TFOptimizer, "_backend_apply_gradients", _apply_gradients, ours)
    replacing.replace(TFOptimizer, "_clip_gradients", optimizers.clip_gradients, ours)
    replacing.replace(TFOptimizer, "_backend_increment_gradient_accumulators", _accumulate, ours)
    replacing.replace(TFOptimizer, "_apply_weight_decay", lambda stock, *args: optimizers.decay_dense(*args), ours)
    replacing.replace(keras.optimizers.LossScaleOptimizer, "apply", loss_scaling.apply, ours)
    replacing.replace(keras.optimizers.LossScaleOptimizer, "scale_loss", loss_scaling.scale_loss, _shares_its_batch)
    for kind in UNREFERENCED_SLOTS:
        replacing.replace(kind, "build", _build_slots, ours)


def _shares_its_batch(optimizer: keras.Optimizer, *args: object, **kwargs: object) -> bool:
    # Any optimizer that a step of ours applies: one for each device would see a part of the batch.
    current = step.current()
    return current is not None and current.gather is not None


def _apply(
    stock: Method,
    optimizer: keras.Optimizer,
    grads: Sequence[optimizers.Gradient | None],
    trainable_variables: Sequence[Variable] | None = None,
) -> None:
    """Applies the gradients of all devices of a worker at once."""
    current = step.current()
    assert current is not None and current.gather is not None
    current.gather(grads, lambda joined: stock(optimizer, joined, trainable_variables))


def _update_step(stock: Method, optimizer: keras.Optimizer, *args: Any) -> None:
    current = step.current()
    whole = whole_of(optimizer)
    if current is not None and current.by_hand and isinstance(whole, ModeOptimizer):
        raise UnsupportedError(
            "`optimizer` must have no mode in a hand-written loop, which trains asynchronously. "
            f"Received: {type(whole).__name__}. Valid: a plain Keras optimizer, or `fit` with a `train_step`."
        )
    # Slots exist by now, and their marks decide how this step pushes them.
    moving_averages.mark_slots(optimizer)
    gradients, variables, *_ = args
    update_if_finite(optimizer, gradients, variables, lambda: optimizers.update_step(optimizer, *args))


def _accumulate(
    stock: Method, optimizer: keras.Optimizer, gradients: list[tf.Tensor], accumulators: list[Variable]
) -> None:
    """Adds gradients to their accumulators. Keras does this in a merge call, which this strategy does not have."""
    for gradient, accumulator in zip(gradients, accumulators, strict=True):
        accumulator.assign_add(gradient)


def _build(stock: Method, optimizer: keras.Optimizer, variables: list[Variable]) -> None:
    # A model has all its tables once its optimizer is built, so the next table is the first of another model. `compile`
    # begins a model as well: one that makes its tables only after that has none counted yet.
    optimizer._distribution_strategy.factory.small_tables.begin_model()
    stock(optimizer, variables)


def _apply_gradients(
    stock: Method, optimizer: keras.Optimizer, gradients: list[optimizers.Gradient], variables: list[Variable]
) -> None:
    current = step.current()
    if current is not None and current.reducer is not None:
        gradients = optimizers.reduce_dense(current.reducer, optimizer, gradients, variables)
    stock(optimizer, optimizers.sum_repeated(optimizer, gradients, variables), variables)


def _add_slot(
    stock: Method, optimizer: keras.Optimizer, reference_variable: Variable, *args: object, **kwargs: object
) -> Variable:
    # TFOptimizer would colocate the slot in TensorFlow's way; its base class just creates it, in the scope below.
    base = super(TFOptimizer, optimizer).add_variable_from_reference
    with slot_scope(optimizer, reference_variable):
        return base(reference_variable, *args, **kwargs)


def _build_slots(stock: Method, optimizer: keras.Optimizer, variables: list[Variable]) -> None:
    stock(optimizer, optimizers.ScopedVariables(optimizer, variables))
