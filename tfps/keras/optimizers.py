"""What a Keras optimizer does in a step: dense variables are the worker's copies, rows go to their servers."""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfps import step
from tfps.embedding.merged import MergedGradient, apply_merged
from tfps.embedding.push import push
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.keras import row_optimizers
from tfps.keras._compat import Variable, keras
from tfps.keras.multi_optimizer import parts_of
from tfps.keras.slot_scope import slot_scope
from tfps.ops import library
from tfps.ops.apply_dense import apply_dense
from tfps.ops.segment_sum_rows import segment_sum_rows
from tfps.strategy.variables import DenseVariable


class InTurn(list[keras.Variable]):
    """Variables to build slots for: while a loop is at one of them, the slots it makes belong to that one.

    Keras before 3.10 does not say which variable a slot of Adagrad or Ftrl is for, but makes them in a loop.

    Args:
        optimizer: makes the slots.
        variables: Keras variables.
    """

    def __init__(self, optimizer: keras.Optimizer, variables: list[keras.Variable]) -> None:
        super().__init__(variables)
        self._optimizer = optimizer

    def __iter__(self) -> Iterator[keras.Variable]:
        """Each variable, in the scope in which its slots belong."""
        for variable in super().__iter__():
            with slot_scope(self._optimizer, variable):
                yield variable


def of_model(model: keras.Model) -> list[keras.Optimizer]:
    """The optimizers of a model: the one it was compiled with, those it holds for its `train_step`, and their parts."""
    found = [model.optimizer]
    for value in vars(model).values():
        members = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        found += [member for member in members if isinstance(member, keras.optimizers.Optimizer)]
    found = [part for optimizer in found if optimizer is not None for part in (optimizer, *parts_of(optimizer))]
    return list({id(optimizer): optimizer for optimizer in found}.values())


def update_step(optimizer: Any, gradients: list[Any], variables: list[Any], learning_rate: Any) -> None:
    """One update of all variables; stands for `_backend_update_step` of Keras.

    Args:
        optimizer: of Keras.
        gradients: one a variable; IndexedSlices for tables.
        variables: Keras variables.
        learning_rate: scalar tensor.
    """
    tables, dense = [], []
    for gradient, variable in zip(gradients, variables, strict=True):
        value = variable._value if isinstance(variable, Variable) else variable
        if isinstance(value, Table):
            if not isinstance(gradient, tf.IndexedSlices | MergedGradient):
                raise UnsupportedError(
                    f"the gradient of table {value.name!r} must be that of its lookups, tf.IndexedSlices: a dense one "
                    f"would be as large as the table. Received: {type(gradient).__name__}."
                )
            tables.append((gradient, value))
        else:
            dense.append((gradient, variable))
    current = step.current()
    if current is not None and current.contributions is not None:
        raise UnsupportedError(
            "every optimizer of a synchronous step must be in the mode of tfps.optimizers.Sync. "
            f"Received: {type(optimizer).__name__}."
        )
    for device, pairs in _by_device(dense).items():
        with tf.device(device) if device else contextlib.nullcontext():
            for gradient, variable in _update_fused(optimizer, pairs, learning_rate):
                optimizer.update_step(gradient, variable, learning_rate)
    updates = row_optimizers.row_updates(optimizer, tables, tf.cast(learning_rate, tf.float32)) if tables else []
    merged = [update for update in updates if isinstance(update.gradient, MergedGradient)]
    apply_merged(merged)
    direct = [update for update in updates if update not in merged]
    if direct:
        push(direct, current.gradients if current else [], current.next_push_id() if current else None)


def _by_device(pairs: list[tuple[Any, Any]]) -> dict[Any, list[tuple[Any, Any]]]:
    """Dense variables by where they are updated: none for the worker's copies, else their server."""
    found: dict[Any, list[tuple[Any, Any]]] = {}
    for gradient, variable in pairs:
        value = variable._value if isinstance(variable, Variable) else variable
        at_home = isinstance(value, DenseVariable) and value.handle is value.home_handle
        found.setdefault(value.home_handle.device if at_home else None, []).append((gradient, variable))
    return found


def _update_fused(optimizer: Any, pairs: list[tuple[Any, Any]], learning_rate: Any) -> list[tuple[Any, Any]]:
    """Updates dense variables of one place in one op; returns the pairs that it could not."""
    found = row_optimizers.rule_of(optimizer, tf.cast(learning_rate, tf.float32))
    if found is None or not found.rule.elementwise or not library.available():
        return pairs
    gradients, handles, left = [], [], []
    for gradient, variable in pairs:
        places = [_handle_of(v) for v in (variable, *found.slots_of(variable))] if _plain(gradient) else [None]
        if None in places:
            left.append((gradient, variable))
        else:
            gradients.append(gradient)
            handles.append(places)
    if handles:
        apply_dense(found.rule, handles, gradients, found.hyper(0.0))
    return left


def _plain(gradient: Any) -> bool:
    return tf.is_tensor(gradient) and not isinstance(gradient, tf.IndexedSlices) and gradient.dtype == tf.float32


def _handle_of(variable: Any) -> Any | None:
    """Handle of a float32 variable in a step under trace, of the worker's copy where there is one; None elsewhere."""
    value = variable._value if isinstance(variable, Variable) else variable
    if step.current() is None or not isinstance(value, DenseVariable) or value.dtype != tf.float32:
        return None
    return value.handle


def clip_gradients(stock: Any, optimizer: Any, gradients: list[Any]) -> list[Any]:
    """Clips as Keras does, after ids that came from several lookups of a table are summed, which a norm must see.

    Keras's own clip by the global norm makes IndexedSlices dense.
    """
    if not (optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue):
        return gradients
    if any(isinstance(gradient, MergedGradient) for gradient in gradients):
        return _clip_merged(optimizer, gradients)
    gradients = [_summed(gradient) for gradient in gradients]
    if optimizer.clipnorm or not optimizer.global_clipnorm:
        return stock(optimizer, gradients)
    return tf.clip_by_global_norm(gradients, optimizer.global_clipnorm)[0]


def _clip_merged(optimizer: Any, gradients: list[Any]) -> list[Any]:
    """The same where gradients lie on their servers: only their norms cross."""
    if not optimizer.clipnorm and not optimizer.global_clipnorm:
        limit = optimizer.clipvalue
        return [
            gradient.with_limit(limit)
            if isinstance(gradient, MergedGradient)
            else tf.clip_by_value(gradient, -limit, limit)
            for gradient in gradients
        ]
    norms = [tf.sqrt(_square_sum(gradient)) for gradient in gradients]
    limit = optimizer.clipnorm or optimizer.global_clipnorm
    if not optimizer.clipnorm:
        norms = [tf.linalg.norm(tf.stack(norms))] * len(norms)
    return [_scaled(gradient, limit / tf.maximum(norm, limit)) for gradient, norm in zip(gradients, norms, strict=True)]


def _square_sum(gradient: Any) -> Any:
    if isinstance(gradient, MergedGradient):
        return gradient.square_sum()
    with tf.device(gradient.device):
        return tf.reduce_sum(tf.square(gradient))


def _scaled(gradient: Any, factor: Any) -> Any:
    if isinstance(gradient, MergedGradient):
        return gradient.with_factor(factor)
    with tf.device(gradient.device):
        return gradient * factor


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
