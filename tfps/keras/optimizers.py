"""What a Keras optimizer does in a step: dense variables are the worker's copies, rows go to their servers."""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfps import step
from tfps.embedding.push import push
from tfps.embedding.table import Table
from tfps.keras import row_optimizers
from tfps.keras._compat import Variable
from tfps.ops.segment_sum_rows import segment_sum_rows
from tfps.strategy.strategy import ParameterServerStrategy


class InTurn(list[Any]):
    """Variables to build slots for: while a loop is at one of them, what it makes are slots of that one.

    Args:
        strategy: makes the slots.
        variables: Keras variables.
    """

    def __init__(self, strategy: ParameterServerStrategy, variables: list[Any]) -> None:
        super().__init__(variables)
        self._strategy = strategy

    def __iter__(self) -> Iterator[Any]:
        """Each variable, in the scope in which its slots belong."""
        for variable in super().__iter__():
            with self._strategy.scope(), self._strategy.slots_of(variable._value):
                yield variable


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


def clip_gradients(stock: Any, optimizer: Any, gradients: list[Any]) -> list[Any]:
    """Clips as Keras does, after ids that came from several lookups of a table are summed, which a norm must see.

    Keras's own clip by the global norm makes IndexedSlices dense.
    """
    if not (optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue):
        return gradients
    gradients = [_summed(gradient) for gradient in gradients]
    if optimizer.clipnorm or not optimizer.global_clipnorm:
        return stock(optimizer, gradients)
    return tf.clip_by_global_norm(gradients, optimizer.global_clipnorm)[0]


def _summed(gradient: Any) -> Any:
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    current = step.current()
    if current is not None and any(known.values is gradient.values for known in current.gradients):
        return gradient  # of one lookup, where each id is there once
    ids, places = tf.unique(gradient.indices)
    return tf.IndexedSlices(segment_sum_rows([gradient.values], [places], tf.size(ids)), ids, gradient.dense_shape)


def decay_dense(optimizer: Any, variables: list[Any]) -> None:
    """Weight decay of dense variables; a row's is part of its update, so that rows of no batch are not touched."""
    if optimizer.weight_decay is None:
        return
    for variable in variables:
        value = variable._value if isinstance(variable, Variable) else variable
        if not isinstance(value, Table) and optimizer._use_weight_decay(variable):
            rate = tf.cast(optimizer.learning_rate, value.dtype)
            value.assign_sub(value * tf.cast(optimizer.weight_decay, value.dtype) * rate)
