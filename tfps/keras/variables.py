"""Keras variables in a `ParameterServerStrategy` scope: which kind they become, and how they are initialized."""

import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

import numpy as np
import tensorflow as tf

from tfps import jobs
from tfps.cluster import devices
from tfps.embedding.initialization import InitialValue
from tfps.embedding.sharded_table import ShardedTable
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.keras._compat import Variable, creating_layer, keras, standardize_dtype
from tfps.keras.first_values import first_value
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
"""A matrix of a user's own layer counts as a table from this many rows on; dense kernels have fewer."""


def current_strategy() -> ParameterServerStrategy | None:
    """Returns the strategy whose scope the caller is in; None if it is not a `ParameterServerStrategy`."""
    strategy = tf.distribute.get_strategy()
    return strategy if isinstance(strategy, ParameterServerStrategy) else None


def create(strategy: ParameterServerStrategy, variable: Variable, initializer: Initializer) -> Table | StepVariable:
    """Creates the value of a Keras variable: a table, a dense variable on a server, or a sum on the chief.

    Args:
        strategy: the strategy that creates it.
        variable: the Keras variable; its shape, dtype and path are known.
        initializer: a Keras initializer or any function of (shape, dtype).
    """
    shape, dtype = tuple(variable._shape), standardize_dtype(variable._dtype)
    spec = VariableSpec(
        variable.path,
        shape,
        dtype,
        trainable=variable.trainable,
        is_table=is_table(variable, shape),
        growing=variable._tfps_table_type.grows and looks_like_table(shape, variable.name, of_embedding=True),
        # Only a table that grows has a type of its own; others have that of the strategy.
        stored_dtype=getattr(variable._tfps_table_type, "embeddings_dtype", None),
    )
    # Three forms of the same initial value: the whole tensor, a range of rows, and a constant. Servers use the cheapest
    # one that exists, so that a large table is never drawn in one piece.
    initial = InitialValue(
        lambda: initializer(shape, dtype=dtype),
        row_source(initializer, shape, dtype),
        _constant(initializer),
        first_value(initializer),
    )
    return _create(strategy, variable, spec, initial)


def create_from_value(
    strategy: ParameterServerStrategy, variable: Variable, value: np.ndarray[Any, Any] | tf.Tensor | float
) -> Table | StepVariable:
    """Creates the value of a Keras variable from a value instead of an initializer. Its shape is not set yet."""
    # An optimizer may make a variable while a step is traced. Keras has turned its value into a tensor of that graph.
    constant = tf.get_static_value(value) if tf.is_tensor(value) else value
    if constant is None:
        raise UnsupportedError(
            f"the first value of variable {variable.path!r} must be known when it is made. Received: {value!r}, a "
            "tensor of a function under trace. Valid: a number, an array, or an initializer."
        )
    array = np.asarray(constant)
    dtype = standardize_dtype(variable._dtype)
    spec = VariableSpec(variable.path, array.shape, dtype, trainable=variable.trainable)
    with tf.init_scope():
        return strategy.create(
            spec,
            Recipe(InitialValue(lambda: tf.convert_to_tensor(array, dtype)), bookkeeping=not _is_of_layer(variable)),
            summed=is_metric(variable),
        )


def carries_state(layer: keras.layers.Layer) -> bool:
    """Whether a layer carries its state from one batch to the next, as a stateful RNN."""
    return bool(getattr(layer, "stateful", False)) and isinstance(layer, keras.layers.RNN)


def adopt_layers(strategy: ParameterServerStrategy, model: keras.Model) -> None:
    """Recreates the variables of layers that were built outside the scope, where the strategy places them.

    A table becomes a table, and keeps its rows.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.metrics.Metric):
            continue
        _check_lookup_table(layer)
        own = [*layer._trainable_variables, *layer._non_trainable_variables]
        kind = _kind_of(layer)
        seeds = [generator.state for generator in getattr(layer, "_seed_generators", ())]
        for variable, maker in [*((one, kind) for one in own), *((one, "seed") for one in seeds)]:
            value = variable._value
            # Users may wrap a tf.Variable of their own, which the scope has placed on a server.
            if value is None or isinstance(value, StepVariable | Table) or devices.is_of_job(value.device, jobs.PS):
                continue
            record_layer(variable, layer)
            variable._tfps_maker = maker
            array, dtype = _value_of(variable), standardize_dtype(variable._dtype)
            spec = VariableSpec(
                variable.path,
                array.shape,
                dtype,
                trainable=variable.trainable,
                is_table=is_table(variable, array.shape),
            )
            variable._value = _create(
                strategy, variable, spec, InitialValue(_constant_of(array, dtype), _rows_of(array, dtype))
            )


def _check_lookup_table(layer: keras.layers.Layer) -> None:
    """Refuses a layer such as StringLookup whose table was made before the strategy."""
    table = getattr(layer, "lookup_table", None)
    handle = getattr(table, "resource_handle", None)
    if handle is not None and devices.is_unconnected(getattr(handle, "device", "")):
        raise UnsupportedError(
            f"layer {layer.name!r} was made before the strategy. TensorFlow loses what was there when it "
            "connects to a cluster. Valid: make the strategy first, then models and layers."
        )


def _constant_of(array: np.ndarray[Any, Any], dtype: str) -> Callable[[], tf.Tensor]:
    return lambda: tf.convert_to_tensor(array, dtype)


def _rows_of(array: np.ndarray[Any, Any], dtype: str) -> Callable[[int, int], tf.Tensor]:
    return lambda start, end: tf.convert_to_tensor(array[start:end], dtype)


def _create(
    strategy: ParameterServerStrategy, variable: Variable, spec: VariableSpec, initial: InitialValue
) -> Table | StepVariable:
    recipe = Recipe(
        initial,
        variable._tfps_table_type,
        is_seed=variable._tfps_maker == "seed",
        may_be_dense=variable._tfps_may_be_dense,
        bookkeeping=not _is_of_layer(variable),
    )
    # An optimizer may build its slots while a step is traced, and variables must outlive that graph.
    with tf.init_scope():
        return strategy.create(spec, recipe, summed=is_metric(variable))


def adopt(strategy: ParameterServerStrategy, variables: list[Variable], maker: str) -> None:
    """Recreates Keras variables that were made outside the scope, in the places that the strategy gives them.

    Args:
        strategy: the strategy that creates them.
        variables: Keras variables.
        maker: "metric" for variables of a metric, "none" for variables of an optimizer.
    """
    for variable in variables:
        if isinstance(variable, Variable) and not isinstance(variable._value, (StepVariable, Table, type(None))):
            variable._tfps_maker = maker
            variable._value = create_from_value(strategy, variable, _value_of(variable))


def _value_of(variable: Variable) -> np.ndarray[Any, Any]:
    """Returns the value of a variable that was made outside the scope."""
    if devices.is_unconnected(variable._value.device):
        raise UnsupportedError(
            f"variable {variable.path!r} was made before the strategy. TensorFlow loses what was there when it "
            "connects to a cluster. Valid: make the strategy first, then models and layers."
        )
    return np.asarray(variable._value.numpy())


def stored_values(variables: Iterable[Variable | T], kind: type[T] | tuple[type[T], ...]) -> list[T]:
    """Returns the values of type `kind` that Keras variables hold, each once."""
    # Duplicates are found by identity, because `==` on a variable is elementwise. Tied layers share a variable.
    values = [variable._value if isinstance(variable, Variable) else variable for variable in variables]
    return list({id(value): value for value in values if isinstance(value, kind)}.values())


def record_maker(variable: Variable) -> None:
    """Records on a Keras variable what is creating it, and which table type its layer asks for."""
    # A variable that is made while a model is traced gets its value later, when Keras no longer knows the creator.
    maker = creating_layer()
    kinds = {"metric": keras.metrics.Metric, "seed": keras.random.SeedGenerator, "embedding": keras.layers.Embedding}
    name = next((name for name, kind in kinds.items() if isinstance(maker, kind)), None)
    variable._tfps_maker = name or ("layer" if isinstance(maker, keras.layers.Layer) else "none")
    _record_table_type(variable, maker)


def record_layer(variable: Variable, layer: keras.layers.Layer) -> None:
    """Records the layer that has made a Keras variable, as `record_maker` would have done at the time."""
    variable._tfps_maker = _kind_of(layer)
    _record_table_type(variable, layer)


def record_metric(variable: Variable) -> None:
    """Records that a Keras variable is the state of a metric, as `record_maker` would have done at the time."""
    variable._tfps_maker = "metric"


def _kind_of(layer: keras.layers.Layer) -> str:
    return "embedding" if isinstance(layer, keras.layers.Embedding) else "layer"


def _record_table_type(variable: Variable, maker: Any) -> None:
    # A layer may choose its table type by a class attribute. Sharded tables are the default.
    variable._tfps_table_type = getattr(maker, "tfps_table_type", ShardedTable)
    if variable._tfps_table_type.grows:
        # An export gives the layer the rows in another form.
        variable._tfps_layer = weakref.ref(maker)
    # Such a layer, or one whose rows a model trains itself, needs a table of any size.
    variable._tfps_may_be_dense = variable._tfps_table_type is ShardedTable and getattr(
        maker, "tfps_may_be_dense", True
    )


def looks_like_table(shape: Shape, name: str, of_embedding: bool) -> bool:
    """Whether a variable is a table: steps read some of its rows and never all of it.

    Args:
        shape: the shape of the variable.
        name: the name of the variable, without the name of its layer.
        of_embedding: whether its layer is a `keras.layers.Embedding`.
    """
    # An empty matrix has no row that a server could hold.
    if len(shape) != 2 or not math.prod(shape):
        return False
    return shape[0] >= _TABLE_ROWS or (of_embedding and name == "embeddings")


def is_metric(variable: Variable) -> bool:
    """Whether a variable is the state of a metric, and therefore a sum over workers."""
    # Keras marks such variables as synchronized on read. Before version 3.7 it had no mark, so the maker decides.
    return getattr(variable, "_synchronization", None) == "on_read" or variable._tfps_maker == "metric"


def _is_of_layer(variable: Variable) -> bool:
    return variable._tfps_maker in ("layer", "embedding")


def is_table(variable: Variable, shape: Shape) -> bool:
    """Whether a Keras variable whose maker is recorded is a table, of any size."""
    of_embedding = variable._tfps_maker == "embedding"
    # A quantized embedding is not trained: nothing is sent for its rows, and `quantize` assigns it whole.
    if of_embedding and not variable.trainable and tf.as_dtype(standardize_dtype(variable._dtype)).is_integer:
        return False
    return _is_of_layer(variable) and looks_like_table(shape, variable.name, of_embedding)


def _constant(initializer: Initializer) -> float | None:
    """Returns the value of a constant initializer; None for all others."""
    if isinstance(initializer, keras.initializers.Zeros):
        return 0.0
    if isinstance(initializer, keras.initializers.Ones):
        return 1.0
    if isinstance(initializer, keras.initializers.Constant) and np.ndim(initializer.value) == 0:
        return float(initializer.value)
    return None
