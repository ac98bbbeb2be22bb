"""What a model must be for a parameter server, checked when it is built, before any step."""

import logging
import weakref
from typing import Any

from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.keras import row_optimizers
from tfps.keras._compat import keras
from tfps.keras.modes import settings_of
from tfps.keras.multi_optimizer import part_for, whole_of
from tfps.keras.optimizers import of_model
from tfps.keras.variables import adopt, stored_values
from tfps.strategy.strategy import ParameterServerStrategy

_LOG = logging.getLogger("tfps")
_SAID: weakref.WeakSet[Table] = weakref.WeakSet()
"""Tables of which it was said what their regularizer sees."""


def prepare(model: Any, strategy: ParameterServerStrategy) -> None:
    """Takes in optimizers and metrics that were made outside the scope."""
    for optimizer in of_model(model):
        if optimizer._distribution_strategy is not strategy:
            _take_in(optimizer, strategy)
        if optimizer is not model.optimizer and whole_of(optimizer) is optimizer:
            _check_mode(optimizer, model.optimizer)
    adopt(strategy, model.metrics_variables, "metric")
    if model.run_eagerly:
        raise UnsupportedError(
            "`run_eagerly` must be False, because steps run on the workers, as graphs. Received: True. "
            "To step through a model, build it without the strategy."
        )


def _take_in(optimizer: Any, strategy: ParameterServerStrategy) -> None:
    if optimizer.built:
        raise UnsupportedError(
            "`optimizer` must be made, or the model compiled, inside `strategy.scope()`, before it is built. "
            f"Received: {type(optimizer).__name__}, built with {len(optimizer.variables)} variables outside."
        )
    optimizer._distribution_strategy = strategy
    adopt(strategy, optimizer.variables, "none")


def _check_mode(optimizer: Any, compiled: Any) -> None:
    """Of an optimizer that a model applies beside the one it was compiled with, which chooses the mode of its steps."""
    mode, steps = settings_of(optimizer), settings_of(compiled)
    if type(mode) is not type(steps) or (steps is not None and not steps.several_optimizers):
        raise UnsupportedError(
            "every optimizer of a model must be in the mode of the one given to `compile`, and Geo takes no other "
            f"beside that. Received: {type(optimizer).__name__}, beside {type(compiled).__name__}. "
            "Valid: `compile(optimizer=...)` with one of them, which by itself takes another."
        )


def check_compiled(model: Any) -> None:
    """Refuses an optimizer without a row-wise form as soon as it is known that there are tables."""
    if model.optimizer is not None and any(
        isinstance(layer, keras.layers.Embedding) for layer in model._flatten_layers()
    ):
        row_optimizers.check(model.optimizer)


def check_built(model: Any) -> None:
    """Refuses what would need a whole table in a step.

    Raises:
        UnsupportedError: naming the table or the optimizer.
    """
    tables = [variable for variable in model.trainable_variables if isinstance(variable._value, Table)]
    for variable in tables:
        if variable.constraint is not None:
            raise UnsupportedError(
                f"`constraint` of table {variable.path!r} would read every row in every step. "
                f"Received: {variable.constraint!r}. Valid: None."
            )
        if variable.regularizer is not None and variable._value not in _SAID:
            _SAID.add(variable._value)
            _LOG.warning(
                "the regularizer of table %r sees the rows of a batch, each once (in one process all rows): a row "
                "is held back in the steps that have it.",
                variable.path,
            )
    if model.optimizer is not None:
        for variable in tables:
            row_optimizers.check(part_for(model.optimizer, variable))


def tables_of(model: Any) -> list[Table]:
    """The tables of a model, each once."""
    return stored_values(model.variables, Table)
