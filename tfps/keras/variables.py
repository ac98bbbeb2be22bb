"""Keras variables made in a `ParameterServerStrategy` scope: what they become and how they get their first value."""

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

import numpy as np
import tensorflow as tf

from tfps.embedding.initialization import InitialValue
from tfps.embedding.sharded_table import ShardedTable
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.keras._compat import Variable, creating_layer, keras, standardize_dtype
from tfps.keras.initial_rows import row_source
from tfps.placement.spec import VariableSpec
from tfps.strategy.creation import Recipe
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.strategy.variables import StepVariable
from tfps.types import Shape

T = TypeVar("T")
Initializer: TypeAlias = Callable[..., tf.Tensor]
"""A Keras initializer, or any function of (shape, dtype)."""

_TABLE_ROWS = 100_000
"""A matrix of a user's own layer is taken for a table from this many rows on: a kernel has fewer."""


def current_strategy() -> ParameterServerStrategy | None:
    """The strategy whose scope the caller is in, if it is ours."""
    strategy = tf.distribute.get_strategy()
    return strategy if isinstance(strategy, ParameterServerStrategy) else None


def create(strategy: ParameterServerStrategy, variable: Variable, initializer: Initializer) -> Table | StepVariable:
    """Makes what a Keras variable holds: a table, a dense variable on a server, or a sum on the chief.

    Args:
        strategy: makes it.
        variable: the Keras variable; its shape, dtype and path are known.
        initializer: a Keras initializer or any function of (shape, dtype).
    """
    shape, dtype = tuple(variable._shape), standardize_dtype(variable._dtype)
    spec = VariableSpec(
        variable.path, shape, dtype, trainable=variable.trainable, is_table=_is_table(variable, shape, dtype)
    )
    initial = InitialValue(
        lambda: initializer(shape, dtype=dtype), row_source(initializer, shape, dtype), _constant(initializer)
    )
    recipe = Recipe(
        initial,
        variable._tfps_table_type,
        is_seed=variable._tfps_maker == "seed",
        bookkeeping=not _of_layer(variable),
    )
    # An optimizer may build its slots while a step is traced: variables are made outside of that graph.
    with tf.init_scope():
        return strategy.create(spec, recipe, summed=_is_metric(variable))


def create_from_value(
    strategy: ParameterServerStrategy, variable: Variable, value: np.ndarray[Any, Any] | tf.Tensor | float
) -> Table | StepVariable:
    """The same for a variable that is given a value instead of an initializer; its shape is not yet set."""
    array = np.asarray(value)
    dtype = standardize_dtype(variable._dtype)
    spec = VariableSpec(variable.path, array.shape, dtype, trainable=variable.trainable)
    with tf.init_scope():
        return strategy.create(
            spec,
            Recipe(InitialValue(lambda: tf.convert_to_tensor(array, dtype)), bookkeeping=not _of_layer(variable)),
            summed=_is_metric(variable),
        )


def adopt(strategy: ParameterServerStrategy, variables: list[Variable], maker: str) -> None:
    """Moves Keras variables that were made outside the scope to where they belong.

    Args:
        strategy: makes them anew.
        variables: Keras variables.
        maker: "metric" for those of a metric, "none" for those of an optimizer.
    """
    for variable in variables:
        if isinstance(variable, Variable) and not isinstance(variable._value, (StepVariable, Table, type(None))):
            variable._tfps_maker = maker
            variable._value = create_from_value(strategy, variable, variable._value.numpy())


def stored_values(variables: Iterable[Variable | T], kind: type[T] | tuple[type[T], ...]) -> list[T]:
    """The tables or variables of some type that Keras variables hold, each once."""
    # By identity, as tables and variables cannot be compared; tied layers hold one of them twice.
    values = [variable._value if isinstance(variable, Variable) else variable for variable in variables]
    return list({id(value): value for value in values if isinstance(value, kind)}.values())


def record_maker(variable: Variable) -> None:
    """Records what makes a Keras variable, and the table type that its layer asks for.

    The variable keeps both: one made while a model is traced gets its value later, when its maker is no longer known.
    """
    maker = creating_layer()
    kinds = {"metric": keras.metrics.Metric, "seed": keras.random.SeedGenerator, "embedding": keras.layers.Embedding}
    named = next((name for name, kind in kinds.items() if isinstance(maker, kind)), None)
    variable._tfps_maker = named or ("layer" if isinstance(maker, keras.layers.Layer) else "none")
    # A layer chooses what keeps its rows by a class attribute; all others have sharded tables.
    variable._tfps_table_type = getattr(maker, "tfps_table_type", ShardedTable)


def looks_like_table(shape: Shape, name: str, of_embedding: bool) -> bool:
    """Whether steps ask for some rows of a layer's variable, and not for all of it.

    Args:
        shape: of the variable.
        name: of the variable, without its layer's.
        of_embedding: whether the layer is a `keras.layers.Embedding`.
    """
    if len(shape) != 2 or not math.prod(shape):
        return False
    return shape[0] >= _TABLE_ROWS or (of_embedding and name == "embeddings")


def _is_metric(variable: Variable) -> bool:
    """Whether a variable is the state of a metric, and so a sum over workers."""
    # Keras marks it as synchronized on read, before version 3.7 not at all.
    return getattr(variable, "_synchronization", None) == "on_read" or variable._tfps_maker == "metric"


def _of_layer(variable: Variable) -> bool:
    return variable._tfps_maker in ("layer", "embedding")


def _is_table(variable: Variable, shape: Shape, dtype: str) -> bool:
    table = _of_layer(variable) and looks_like_table(shape, variable.name, variable._tfps_maker == "embedding")
    if table and dtype != "float32":
        raise UnsupportedError(
            f"`dtype` of table {variable.path!r} must be 'float32'. Received: {dtype!r}. "
            "To compute in another type, set a policy that keeps variables in float32, such as 'mixed_bfloat16'."
        )
    return table


def _constant(initializer: Initializer) -> float | None:
    """The value that an initializer gives every element, if it is one."""
    if isinstance(initializer, keras.initializers.Zeros):
        return 0.0
    if isinstance(initializer, keras.initializers.Ones):
        return 1.0
    if isinstance(initializer, keras.initializers.Constant) and np.ndim(initializer.value) == 0:
        return float(initializer.value)
    return None
