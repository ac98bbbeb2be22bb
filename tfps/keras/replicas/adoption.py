"""Models, layers and optimizers that were made outside the scope of a strategy with replicas."""

import functools
from typing import Any, cast

import tensorflow as tf

from tfps.errors import UnsupportedError
from tfps.keras._compat import Variable, keras, metrics_of
from tfps.keras.optimizers import optimizers_of
from tfps.keras.replicas import tables
from tfps.keras.variables import record_layer, record_metric
from tfps.replicas.strategies import Replicated


def adopt_model(model: keras.Model, strategy: Replicated) -> None:
    """Makes a model one of the strategy.

    Raises:
        UnsupportedError: the strategy has several copies of each variable, and the model has variables with one.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.metrics.Metric):
            continue
        for variable in [*layer._trainable_variables, *layer._non_trainable_variables]:
            if variable._value is None or tables.is_marked(variable):
                continue
            _check_copies(variable, strategy, f"variable {variable.path!r}")
            record_layer(variable, layer)
            tables.mark(strategy, variable)
    # Last, so that a model that is refused stays as it was.
    model._distribute_strategy = strategy


def adopt_optimizers(model: keras.Model) -> None:
    """Makes the optimizers of a model optimizers of its strategy; they go on with the values that they have."""
    strategy = model._distribute_strategy
    for optimizer in optimizers_of(model):
        if optimizer._distribution_strategy is strategy:
            continue
        if strategy.num_replicas_in_sync > 1:
            for variable in optimizer.variables:
                _copy_to_replicas(variable, strategy)
        optimizer._distribution_strategy = strategy


def _copy_to_replicas(variable: keras.Variable | tf.Variable, strategy: tf.distribute.Strategy) -> None:
    """Gives a Keras variable that was made outside the scope a copy on each replica."""
    if isinstance(variable, tf.Variable):
        return
    value = variable._value
    if value is None or isinstance(value, tf.distribute.DistributedValues):
        return
    initial = value.numpy()
    with strategy.scope():
        cast(Any, variable)._initialize(functools.partial(tf.constant, initial, value.dtype))


def check_model_of_scope(model: keras.Model) -> None:
    """Refuses to train or evaluate, in a scope with several replicas, a model that was made and compiled outside it.

    Raises:
        UnsupportedError: the model is none of the strategy; TensorFlow would let all replicas write its one copy.
    """
    strategy = tables.current_strategy()
    if strategy is not None and strategy.num_replicas_in_sync > 1 and model._distribute_strategy is None:
        raise UnsupportedError(
            f"model {model.name!r} must be made and compiled in `with strategy.scope():`, because "
            f"{type(strategy).__name__} keeps a copy of each variable on each device. "
            "Received: one that was made outside."
        )


def adopt_metrics(model: keras.Model) -> None:
    """Gives metrics that were made outside the scope a state on each replica; it begins with what they have counted."""
    strategy = model._distribute_strategy
    if strategy.num_replicas_in_sync == 1:
        return
    for metric in metrics_of(model):
        for variable in metric.variables:
            value = variable._value
            if value is None or isinstance(value, tf.distribute.DistributedValues):
                continue
            counted = value.numpy()
            record_metric(variable)
            with strategy.scope():
                variable._initialize(functools.partial(tf.zeros, counted.shape, value.dtype))
                # What is assigned here is divided between the replicas.
                variable._value.assign(counted)


def _check_copies(variable: Variable, strategy: Replicated, what: str) -> None:
    if strategy.num_replicas_in_sync > 1 and not isinstance(variable._value, tf.distribute.DistributedValues):
        raise UnsupportedError(
            f"{what} must be made in `with strategy.scope():`, because {type(strategy).__name__} keeps a copy of each "
            "variable on each device. Received: one that was made outside."
        )
