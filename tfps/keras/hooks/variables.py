"""Hooks into variables: they are placed by the plan, tables are read by rows, and updates add in place.

Threading: every thread that traces a step.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

from tfps.embedding.table import Table
from tfps.keras import row_functions, variables
from tfps.keras._compat import Variable, forget_uninitialized, in_stateless_scope, keras, tensorflow_numpy
from tfps.keras.hooks import replacing
from tfps.keras.hooks.replacing import Method
from tfps.keras.variables import current_strategy
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.strategy.variables import SmallTable, StepVariable


def install() -> None:
    """Installs the hooks."""
    in_scope = lambda variable, *args, **kwargs: current_strategy() is not None  # noqa: E731
    replacing.replace(Variable, "__init__", _init_variable, in_scope)
    replacing.replace(Variable, "_initialize_with_initializer", _initialize_with_initializer, in_scope)
    replacing.replace(Variable, "_initialize", _initialize, in_scope)
    replacing.replace(Variable, "assign_add", _assign_add, _is_atomic)
    replacing.replace(Variable, "assign_sub", _assign_sub, _is_atomic)
    Variable.sparse_read = property(_sparse_read)
    replacing.replace(tensorflow_numpy, "take", row_functions.take_rows, row_functions.takes_rows)
    # `trainable` is a property, so only its setter can be replaced.
    stock = Variable.trainable
    Variable.trainable = stock.setter(functools.partial(_set_trainable, stock.fset))


def _init_variable(stock: Method, variable: Variable, *args: object, **kwargs: object) -> None:
    # Recorded first: the constructor of Keras may already initialize the variable.
    variables.record_maker(variable)
    stock(variable, *args, **kwargs)


def _strategy() -> ParameterServerStrategy:
    """Returns the strategy of the scope. Only for hooks that apply in a scope of our strategy."""
    strategy = current_strategy()
    assert strategy is not None
    return strategy


def _initialize_with_initializer(
    stock: Method, variable: Variable, initializer: keras.initializers.Initializer
) -> None:
    try:
        variable._value = variables.create(_strategy(), variable, initializer)
    except BaseException:
        # Keras would otherwise try to initialize this variable again with the next model.
        forget_uninitialized()
        raise


def _initialize(stock: Method, variable: Variable, value: tf.Tensor | Callable[[], tf.Tensor]) -> None:
    # An existing tf.Variable keeps its place. The strategy places plain values.
    if isinstance(value, tf.Variable) or callable(value):
        stock(variable, value)
    else:
        variable._value = variables.create_from_value(_strategy(), variable, value)


def _is_atomic(variable: Variable, value: object) -> bool:
    # In a stateless scope Keras only records assignments, so nothing may be written.
    return isinstance(variable._value, StepVariable) and not in_stateless_scope()


def _assign_add(stock: Method, variable: Variable, value: tf.Tensor) -> tf.Variable:
    """Adds in one operation. Keras reads, adds and assigns, so one of two concurrent updates would be lost."""
    return variable._value.assign_add(tf.cast(value, variable._value.dtype))


def _assign_sub(stock: Method, variable: Variable, value: tf.Tensor) -> tf.Variable:
    return variable._value.assign_sub(tf.cast(value, variable._value.dtype))


def _set_trainable(stock: Method, variable: Variable, value: bool) -> None:
    """Passes `trainable` on to the value: Keras changes only its own variable, but gradient tapes ask the value."""
    stock(variable, value)
    if isinstance(getattr(variable, "_value", None), StepVariable | Table):
        variable._value.trainable = variable.trainable


def _sparse_read(variable: Variable) -> Callable[..., tf.Tensor]:
    """The property that `tf.gather` looks for to read rows."""
    # AttributeError makes `hasattr` false, so that `tf.gather` reads other variables in the usual way.
    if not isinstance(variable._value, Table | SmallTable):
        raise AttributeError("sparse_read")
    return variable._value.sparse_read
