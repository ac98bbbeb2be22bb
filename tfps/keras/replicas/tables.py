"""Tables under a strategy with replicas: plain variables whose rows are read and updated one by one."""

from typing import Any

import tensorflow as tf

from tfps.keras import variables
from tfps.keras._compat import Variable, in_stateless_scope, standardize_dtype, tree
from tfps.placement.spec import VariableSpec
from tfps.replicas.strategies import Replicated
from tfps.types import Nest

_MARK = "_tfps_rows"


def current_strategy() -> Replicated | None:
    """Returns the strategy whose scope the caller is in; None if it is not one with replicas of tfps."""
    strategy = tf.distribute.get_strategy()
    return strategy if isinstance(strategy, Replicated) else None


def mark(strategy: Replicated, variable: Variable) -> None:
    """Marks a Keras variable that has just got its value, if it is a table."""
    shape = tuple(variable._value.shape)
    spec = VariableSpec(variable.path, shape, standardize_dtype(variable._dtype), trainable=variable.trainable)
    large = variables.is_table(variable, shape) and not (
        variable._tfps_may_be_dense and strategy.small_tables.take(spec)
    )
    setattr(variable, _MARK, large)


def is_marked(variable: Variable) -> bool:
    """Whether it is known if a Keras variable is a table."""
    return hasattr(variable, _MARK)


def is_table(variable: Any) -> bool:
    """Whether a Keras variable is a table under such a strategy."""
    return getattr(variable, _MARK, False) and variable._value is not None and not in_stateless_scope()


def takes_rows(x: object, indices: object, axis: int | None = None) -> bool:
    """Whether a call of `keras.ops.take` looks up rows of such a table."""
    return is_table(x) and axis == 0 and not isinstance(indices, tf.SparseTensor | tf.RaggedTensor)


def take_rows(stock: object, x: Variable, indices: tf.Tensor, axis: int | None = None) -> tf.Tensor:
    """Looks up rows as `keras.ops.take` does; negative ids count from the end.

    Keras reads the variable and takes rows of the copy. An update in place then has to copy the table.
    """
    ids = tf.convert_to_tensor(indices)
    if ids.dtype.is_unsigned or not ids.dtype.is_integer:
        ids = tf.cast(ids, tf.int64)
    ids = tf.where(ids < 0, ids + tf.cast(x._value.shape[0], ids.dtype), ids)
    return tf.gather(local(x._value), ids)


def local(value: tf.Variable) -> tf.Variable:
    """Returns the variable of this replica that a distributed variable has."""
    return value._get() if isinstance(value, tf.distribute.DistributedValues) else value


def spec_of_replica(spec: Nest) -> Nest:
    """Returns the element spec of one replica, with an unknown number of examples."""

    def of_one(value: Any) -> Any:
        parts = getattr(value, "_value_specs", None)
        one = parts[0] if parts else value
        if isinstance(one, tf.TensorSpec) and one.shape.rank:
            return tf.TensorSpec([None, *one.shape[1:]], one.dtype)
        # A dataset of structures with None has a spec for it that has no shape.
        return one if hasattr(one, "shape") else None

    return tree.map_structure(of_one, spec)
