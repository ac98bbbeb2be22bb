"""Checks that a model can train on parameter servers, when it is compiled or built and before any step."""

import logging
import weakref

from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.keras import metric_checks, row_optimizers
from tfps.keras._compat import keras, metrics_of, tree
from tfps.keras.modes import settings_of
from tfps.keras.multi_optimizer import part_for, unscaled, whole_of
from tfps.keras.optimizers import leading_optimizer, optimizers_of
from tfps.keras.variables import adopt as adopt_variables
from tfps.keras.variables import adopt_layers, carries_state, stored_values
from tfps.placement.spec import VariableSpec
from tfps.strategy.arguments import ALLREDUCE
from tfps.strategy.strategy import ParameterServerStrategy

_LOG = logging.getLogger("tfps")
_SAID_LAYERS: weakref.WeakSet[keras.layers.Layer] = weakref.WeakSet()
"""Stateful layers about which the log has said what several workers mean for them."""
_WARNED_TABLES: weakref.WeakSet[Table] = weakref.WeakSet()
"""Tables whose regularizer has already been warned about."""


def adopt(model: keras.Model, strategy: ParameterServerStrategy) -> None:
    """Moves a model that is about to be compiled to the strategy: all of it, or layers that were built outside.

    Raises:
        UnsupportedError: the model belongs to another strategy.
    """
    if model._distribute_strategy is not strategy:
        if model._distribute_strategy is not None:
            raise UnsupportedError(
                "`model` must be made in the scope that it is compiled in, or in none. "
                f"Received: {model.name!r}, made in the scope of a {type(model._distribute_strategy).__name__}."
            )
        model._distribute_strategy = strategy
    adopt_layers(strategy, model)


def check_known(model: keras.Model) -> None:
    """Refuses to fit a model inside the scope if no strategy knows it.

    Raises:
        UnsupportedError: the model was neither made nor compiled inside a scope.
    """
    if not isinstance(model._distribute_strategy, ParameterServerStrategy):
        raise UnsupportedError(
            "`model` must be made or compiled inside `strategy.scope()`: it would train in this process alone. "
            f"Received: {model.name!r}, made and compiled outside."
        )


def prepare(model: keras.Model, strategy: ParameterServerStrategy) -> None:
    """Moves optimizers and metrics that were made outside the scope to the strategy.

    Raises:
        UnsupportedError: an optimizer was built outside the scope or has a wrong mode.
    """
    leading = leading_optimizer(model)
    for optimizer in optimizers_of(model):
        if optimizer._distribution_strategy is not strategy:
            _adopt_optimizer(optimizer, strategy)
        # Nadam makes its product of momenta where it is built, maybe outside the scope.
        adopt_variables(strategy, optimizer.variables, "none")
        # The mode belongs to a whole MultiOptimizer, so its parts are not checked.
        leads = optimizer in (leading, unscaled(leading), model.optimizer, unscaled(model.optimizer))
        if not leads and whole_of(optimizer) is optimizer:
            _check_mode(optimizer, leading)
    adopt_layers(strategy, model)
    adopt_metrics(model)


def adopt_metrics(model: keras.Model) -> None:
    """Moves metrics that were made outside the scope to the strategy of the model.

    Those given to `compile` are only known once the model is built.
    """
    variables = [one for metric in metrics_of(model) for one in metric.variables]
    adopt_variables(model._distribute_strategy, variables, "metric")


def adopt_optimizers(model: keras.Model) -> None:
    """Moves the optimizers of a compiled model to its strategy, unless they are built: `prepare` refuses these."""
    strategy = model._distribute_strategy
    for optimizer in optimizers_of(model):
        if optimizer._distribution_strategy is not strategy and not optimizer.built:
            _adopt_optimizer(optimizer, strategy)


def _adopt_optimizer(optimizer: keras.Optimizer, strategy: ParameterServerStrategy) -> None:
    # The slots of a built optimizer already lie on the chief, as large as their variables: too late to place them.
    if optimizer.built:
        raise UnsupportedError(
            "`optimizer` must be made, or the model compiled, inside `strategy.scope()` before the optimizer is built. "
            f"Received: {type(optimizer).__name__}, built with {len(optimizer.variables)} variables outside."
        )
    optimizer._distribution_strategy = strategy
    adopt_variables(strategy, optimizer.variables, "none")


def _check_mode(optimizer: keras.Optimizer, compiled: keras.Optimizer) -> None:
    """Checks an additional optimizer against the one given to `compile`, which sets the mode of the steps."""
    mode, steps = settings_of(optimizer), settings_of(compiled)
    if type(mode) is not type(steps) or (steps is not None and not steps.several_optimizers):
        raise UnsupportedError(
            "every optimizer of a model must be in the mode of the one given to `compile`, and in mode Geo there must "
            f"be no other. Received: {type(optimizer).__name__}, beside {type(compiled).__name__}. "
            "Valid: several plain optimizers, or several in mode Sync."
        )


def check_compiled(model: keras.Model) -> None:
    """Refuses an optimizer without a row-wise form, if the layers show tables, and metrics whose state is no sum."""
    # Before the model is built only large Embedding layers are sure to become tables. `check_built` sees the others.
    if model.optimizer is not None and any(
        _is_sure_of_table(layer, model.distribute_strategy) for layer in model._flatten_layers()
    ):
        row_optimizers.check(model.optimizer)
    metric_checks.check_compiled(model)


def _is_sure_of_table(layer: keras.layers.Layer, strategy: ParameterServerStrategy) -> bool:
    if not isinstance(layer, keras.layers.Embedding):
        return False
    if layer.built:
        return any(isinstance(variable._value, Table) for variable in layer.variables)
    # A plan may make a table of any size a dense variable.
    spec = VariableSpec(layer.name, (layer.input_dim, layer.output_dim), is_table=True)
    return not strategy.factory.may_be_dense(spec)


def check_built(model: keras.Model) -> None:
    """Refuses constraints and optimizers that would need a whole table in a step.

    Raises:
        UnsupportedError: a table has a constraint, or its optimizer has no row-wise form. The message names it.
    """
    _say_carried(model)
    tables = [variable for variable in model.trainable_variables if isinstance(variable._value, Table)]
    for variable in tables:
        if variable.constraint is not None:
            raise UnsupportedError(
                f"`constraint` of table {variable.path!r} would read every row in every step. "
                f"Received: {variable.constraint!r}. Valid: None."
            )
        if variable.regularizer is not None and variable._value not in _WARNED_TABLES:
            _WARNED_TABLES.add(variable._value)
            _LOG.warning(
                "the regularizer of table %r sees each row of a batch once, not the whole table as in one process: a "
                "row is only regularized in the steps that look it up.",
                variable.path,
            )
    _check_devices(model)
    for optimizer in optimizers_of(model):
        _check_accumulation(optimizer, model)
    if model.optimizer is not None:
        # With a MultiOptimizer only the parts that update tables need a row-wise form.
        for variable in tables:
            part = part_for(model.optimizer, variable)
            row_optimizers.check(part)
            row_optimizers.check_repeats(part, variable._value)
            row_optimizers.check_rounding(part, variable._value)


def _check_devices(model: keras.Model) -> None:
    """Refuses what several devices that share a batch would compute otherwise than one."""
    devices = len(model._distribute_strategy.step_devices)
    if devices < 2:
        return
    valid = "Valid: devices_per_worker=1."
    for layer in model._flatten_layers():
        if carries_state(layer):
            raise UnsupportedError(
                f"layer {layer.name!r} must not be stateful where {devices} devices share a batch, because it carries "
                f"a state for each row of the whole batch. Received: stateful=True. {valid}"
            )
    for loss in tree.flatten(getattr(model, "loss", None)):
        if getattr(loss, "reduction", None) == "sum":
            raise UnsupportedError(
                f"`loss` must be a mean over examples where {devices} devices share a batch. "
                f'Received: {type(loss).__name__} with reduction="sum". Valid: "sum_over_batch_size", or '
                "devices_per_worker=1."
            )


def _say_carried(model: keras.Model) -> None:
    """Says once for each stateful layer that a worker knows only the state that its own batches left."""
    workers = model._distribute_strategy.num_workers
    for layer in model._flatten_layers():
        if carries_state(layer) and workers > 1 and layer not in _SAID_LAYERS:
            _SAID_LAYERS.add(layer)
            _LOG.warning(
                "layer %r carries its state from batch to batch: each of the %d workers carries its own, from one of "
                "its batches to its next. Train with one worker where batch i + 1 must continue batch i.",
                layer.name,
                workers,
            )


def _check_accumulation(optimizer: keras.Optimizer, model: keras.Model) -> None:
    """Refuses to accumulate gradients where several workers would each accumulate and reset."""
    steps = getattr(optimizer, "gradient_accumulation_steps", None)
    if not steps:
        return
    settings = settings_of(leading_optimizer(model))
    # With equal copies all workers accumulate the same mean gradients.
    merges = (settings is not None and settings.updates_on_servers) or model._distribute_strategy.dense == ALLREDUCE
    if model._distribute_strategy.num_workers > 1 and not merges:
        raise UnsupportedError(
            "`gradient_accumulation_steps` must be None if several workers update the model by themselves: each would "
            f"reset gradients that others have accumulated. Received: {steps}, with "
            f"{model._distribute_strategy.num_workers} workers. Valid: None, or an optimizer of tfps.optimizers.Sync, "
            "whose updates already use a batch of each worker."
        )


def tables_of(model: keras.Model) -> list[Table]:
    """Returns the tables of a model, each once."""
    return stored_values(model.variables, Table)
