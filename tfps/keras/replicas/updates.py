"""Updates of Keras optimizers on replicas: gradients meet once, then each replica updates its own copy.

Each replica makes the same update from the same gradients, so the copies stay equal without another message.

Threading: the thread of a replica.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfps.keras import loss_scaling, optimizers, row_optimizers
from tfps.keras._compat import Variable, keras
from tfps.keras.replicas.tables import is_table, local
from tfps.ops import library
from tfps.ops.apply_dense import apply_dense
from tfps.ops.rules.declaration import Measure
from tfps.replicas import reduction, rows, step
from tfps.replicas.reduction import Gradient

_LOG = logging.getLogger("tfps")
_SAID: set[type] = set()
"""The classes of optimizers for which the log has said that they update tables whole."""


def apply(
    stock: Callable[..., Any],
    optimizer: keras.Optimizer,
    gradients: Sequence[Gradient],
    trainable_variables: Sequence[Variable] | None = None,
) -> Any:
    """Replaces `apply` of Keras: sums the gradients over the replicas, and then lets Keras update this one."""
    gradients = list(gradients)
    if not optimizer.built and trainable_variables is not None:
        trainable_variables = list(trainable_variables)
        with keras.name_scope(optimizer.name, caller=optimizer):
            optimizer.build(trainable_variables)
        optimizer.built = True
    targets = optimizer._trainable_variables if trainable_variables is None else list(trainable_variables)
    gradients = [_with_width(gradient, one) for gradient, one in zip(gradients, targets, strict=True)]
    if tf.distribute.get_replica_context() is not None:
        summed = [_sums_repeats(optimizer, one) for one in targets]
        gradients = reduction.sum_over_replicas(gradients, summed)
    with reduction.on_each_replica(), step.after_input():
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            return loss_scaling.update_scaled(optimizer, gradients, targets)
        return stock(optimizer, gradients, trainable_variables)


def _with_width(gradient: Gradient, variable: Variable) -> Gradient:
    """Returns a gradient whose rows have a static width, which TensorFlow's gradient of a lookup does not tell."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    values = tf.ensure_shape(gradient.values, [None, *variable.shape[1:]])
    return tf.IndexedSlices(values, tf.reshape(gradient.indices, [-1]), gradient.dense_shape)


def apply_gradients(
    stock: Callable[..., None], optimizer: keras.Optimizer, gradients: list[Gradient], variables: list[Variable]
) -> None:
    """Replaces `_backend_apply_gradients`: sums the gradients of repeated ids before an optimizer clips them."""
    if optimizers.clips(optimizer):
        gradients = [
            optimizers.sum_duplicates(gradient) if _sums_repeats(optimizer, variable) else gradient
            for gradient, variable in zip(gradients, variables, strict=True)
        ]
    stock(optimizer, gradients, variables)


def clip(stock: Callable[..., list[Gradient]], optimizer: keras.Optimizer, gradients: list[Gradient]) -> list[Gradient]:
    """Replaces `_clip_gradients`: Keras's own would make the gradient of a table dense."""
    return optimizers.clip_gradients(stock, optimizer, gradients)


def update_step(
    stock: Callable[..., None],
    optimizer: keras.Optimizer,
    gradients: list[Gradient],
    variables: list[Variable],
    learning_rate: tf.Tensor,
) -> None:
    """Replaces `_backend_update_step`: rows of tables by their rule, dense variables in one op, others by Keras."""
    bound = row_optimizers.rule_of(optimizer, tf.cast(learning_rate, tf.float32))
    by_rows, by_op, others = [], [], []
    for gradient, variable in zip(gradients, variables, strict=True):
        if is_table(variable) and bound is not None:
            by_rows.append((gradient, variable))
        elif bound is not None and _fits_op(gradient, variable, bound):
            by_op.append((gradient, variable))
        else:
            _say_slow(optimizer, variable)
            others.append((gradient, variable))
    if bound is not None and by_op:
        handles = [[local(one._value).handle for one in (v, *bound.slots_of(v))] for _, v in by_op]
        # Keras has applied the weight decay of dense variables.
        apply_dense(bound.rule, handles, [gradient for gradient, _ in by_op], bound.hyper(0.0))
    if bound is not None and by_rows:
        rows.apply(_row_updates(optimizer, bound, by_rows, learning_rate))
    for gradient, variable in others:
        optimizer.update_step(gradient, local(variable._value), learning_rate)


def decay(stock: Callable[..., None], optimizer: keras.Optimizer, variables: Sequence[Variable]) -> None:
    """Replaces `_apply_weight_decay`: dense variables decay here, rows of tables with their update."""
    if optimizer.weight_decay is None:
        return
    has_rule = row_optimizers.row_rule(optimizer) is not None
    for variable in variables:
        if optimizer._use_weight_decay(variable) and not (is_table(variable) and has_rule):
            value = local(variable._value)
            rate = tf.cast(optimizer.learning_rate, value.dtype) * tf.cast(optimizer.weight_decay, value.dtype)
            value.assign_sub(value * rate)


def accumulate(
    stock: Callable[..., None], optimizer: keras.Optimizer, gradients: list[Gradient], accumulators: list[Variable]
) -> None:
    """Replaces `_backend_increment_gradient_accumulators`."""
    for gradient, accumulator in zip(gradients, accumulators, strict=True):
        if gradient is not None:
            local(accumulator._value).assign_add(tf.convert_to_tensor(gradient))


def take_averages(stock: Callable[..., None], optimizer: keras.Optimizer, variables: Sequence[Variable]) -> None:
    """Replaces `_overwrite_model_variables_with_average_value`."""
    for variable, average in zip(variables, optimizer._model_variables_moving_average, strict=False):
        local(variable._value).assign(local(average._value))


def _sums_repeats(optimizer: keras.Optimizer, variable: Variable) -> bool:
    """Whether the gradients of an id that repeats are summed before anything else looks at them."""
    strategy = optimizer._distribution_strategy
    return is_table(variable) and strategy.repeated_ids == "sum" and row_optimizers.row_rule(optimizer) is not None


def _row_updates(
    optimizer: keras.Optimizer,
    bound: row_optimizers.BoundRule,
    pairs: Sequence[tuple[Gradient, Variable]],
    learning_rate: tf.Tensor,
) -> list[rows.LocalUpdate]:
    plain = bound.hyper(0.0)
    decayed = None if optimizer.weight_decay is None else bound.hyper(optimizer.weight_decay * learning_rate)
    updates = []
    for gradient, variable in pairs:
        hyper = decayed if decayed is not None and optimizer._use_weight_decay(variable) else plain
        values = [local(one._value) for one in (variable, *bound.slots_of(variable))]
        measure = _measure(optimizer, bound)
        if not isinstance(gradient, tf.IndexedSlices):
            # Code that reads the table whole gives all rows a gradient, which is a sum by id already.
            ids = tf.range(tf.shape(gradient, tf.int64)[0])
            gradient, measure = tf.IndexedSlices(gradient, ids, tf.shape(gradient, tf.int64)), None
        updates.append(rows.LocalUpdate(values, gradient, bound.rule, hyper, measure))
    return updates


def _measure(optimizer: keras.Optimizer, bound: row_optimizers.BoundRule) -> Measure | None:
    if optimizer._distribution_strategy.repeated_ids == "sum" or optimizer.global_clipnorm:
        return None
    return bound.rule.measure


def _fits_op(gradient: Gradient, variable: Variable, bound: row_optimizers.BoundRule) -> bool:
    """Whether the op for dense variables can update a variable: a float32 one on a CPU, by a dense gradient."""
    if (
        gradient is None
        or isinstance(gradient, tf.IndexedSlices)
        or not bound.rule.elementwise
        or not library.available()
    ):
        return False
    value = local(variable._value)
    return value.dtype == gradient.dtype == tf.float32 and "GPU" not in value.device and "TPU" not in value.device


def _say_slow(optimizer: keras.Optimizer, variable: Variable) -> None:
    if is_table(variable) and type(optimizer) not in _SAID:
        _SAID.add(type(optimizer))
        _LOG.warning(
            "%s has no row-wise form: it updates every row of table %r in every step. Row-wise: %s.",
            type(optimizer).__name__,
            variable.path,
            row_optimizers.valid_names(),
        )
