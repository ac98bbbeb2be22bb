"""What a Keras optimizer does in a step: dense variables are the worker's copies, rows go to their servers."""

from typing import Any

import tensorflow as tf

from tfps import step
from tfps.embedding.push import push
from tfps.embedding.table import Table
from tfps.keras import row_optimizers
from tfps.keras._compat import Variable


def update_step(optimizer: Any, gradients: list[Any], variables: list[Any], learning_rate: Any) -> None:
    """One update of all variables; stands for `_backend_update_step` of Keras.

    Args:
        optimizer: of Keras.
        gradients: one a variable; IndexedSlices for tables.
        variables: Keras variables.
        learning_rate: scalar tensor.
    """
    values = [variable._value if isinstance(variable, Variable) else variable for variable in variables]
    tables = [(gradient, value) for gradient, value in zip(gradients, values, strict=True) if isinstance(value, Table)]
    for gradient, variable, value in zip(gradients, variables, values, strict=True):
        if not isinstance(value, Table):
            optimizer.update_step(gradient, variable, learning_rate)
    if tables:
        current = step.current()
        known = current.gradients if current else []
        push(row_optimizers.row_updates(optimizer, tables, tf.cast(learning_rate, tf.float32)), known)


def decay_dense(optimizer: Any, variables: list[Any]) -> None:
    """Weight decay of dense variables; a row's is part of its update, so that rows of no batch are not touched."""
    if optimizer.weight_decay is None:
        return
    for variable in variables:
        value = variable._value if isinstance(variable, Variable) else variable
        if not isinstance(value, Table) and optimizer._use_weight_decay(variable):
            rate = tf.cast(optimizer.learning_rate, value.dtype)
            value.assign_sub(value * tf.cast(optimizer.weight_decay, value.dtype) * rate)
