"""Moving averages of several workers: a server applies the steps of all workers in the order of arrival.

Differences of averages do not add up: if two workers each pushed how far an average fell, the sum could take it below
0, and the root of a second moment would be NaN. k steps with decay d map an average v to v' = d^k v + a, where `a` does
not depend on v, and such maps can be applied one after the other. So a worker pushes a = v' - d^k v and k, and the
server computes V = d^k V + a from its own V. The result equals that of one process that makes the steps of all workers.
For a product, such as Nadam's product of momenta, a worker pushes r = v'/v - 1 and the server computes V = V + r V.

Example: d = 0.9 and V = 1.0. Two workers pull 1.0 and each makes one step with a gradient of 0. Both have v' = 0.9 and
push a = 0, k = 1. The server gets 0.9 and then 0.81. If both pushed the difference -0.1, it would get 0.8.
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import tensorflow as tf

from tfps.ops.apply_dense import apply_dense
from tfps.ops.row_rules import ROW_RULES
from tfps.strategy.variables import DenseVariable
from tfps.types import VariableKey

Deltas: TypeAlias = Mapping[VariableKey, tf.Tensor]
"""The value that a worker pushes for each dense variable, by key."""


def is_average(variable: DenseVariable, deltas: Deltas) -> bool:
    """Returns whether a variable is an average whose step counter is among `deltas`."""
    # A model may be exchanged without the step counter of its optimizer; the number of steps is then unknown.
    average = variable.average
    return average is not None and (average.decay is None or average.counter in deltas)


def keep_factor(variable: DenseVariable, deltas: Deltas) -> tf.Tensor:
    """Returns the part of an average that remains after its steps, d^k; for a product, its factor."""
    assert variable.average is not None
    if variable.average.decay is None:
        return 1 + deltas[variable.key]
    return power_of_decay(variable.average.decay, deltas[variable.average.counter], variable.dtype)


def power_of_decay(decay: float, steps: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Returns decay^steps, the part of an average that remains after these steps."""
    return tf.pow(tf.cast(decay, dtype), tf.cast(steps, dtype))


def push_value(variable: DenseVariable, before: tf.Tensor, after: tf.Tensor, factor: tf.Tensor | None) -> tf.Tensor:
    """Returns the value to push for an average that changed from `before` to `after`: `a`, or `r` for a product.

    Args:
        variable: the average.
        before: its value before the steps.
        after: its value after them.
        factor: what is left of `before` in `after`, a scalar or a tensor of its shape; None for a product.
    """
    if is_product(variable):
        return tf.math.divide_no_nan(after - before, before)
    if variable.dtype == tf.bool:
        return after
    assert factor is not None
    return after - tf.cast(factor, variable.dtype) * before


def value_after(variable: DenseVariable, value: tf.Tensor, delta: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Returns the value of an average after a push, as the server computes it.

    Args:
        variable: the average.
        value: its value before the push.
        delta: its push value.
        factor: what the push leaves of `value`, a scalar or a tensor of its shape.
    """
    if variable.dtype == tf.bool:
        return tf.where(tf.cast(factor, tf.float32) > 0.5, value, delta)
    return value * tf.cast(factor, variable.dtype) + _addend(variable, delta)


def reads_first(variables: Iterable[tuple[DenseVariable, tf.Tensor, tf.Tensor]]) -> bool:
    """Returns whether `compose` reads a variable before it assigns it, so that the caller must hold a lock."""
    return any(not _is_one_operation(variable, factor) for variable, _, factor in variables)


def _is_one_operation(variable: DenseVariable, factor: tf.Tensor) -> bool:
    # The op supports float32 and one factor.
    return variable.dtype == tf.float32 and factor.shape.rank == 0


def compose(variables: Iterable[tuple[DenseVariable, tf.Tensor, tf.Tensor]]) -> list[tf.Operation]:
    """Applies pushes to averages on their server; returns the operations. See `reads_first`.

    Args:
        variables: tuples of (variable, its push value, its keep factor: float32, a scalar or a tensor of its shape).
    """
    # All averages with one decay and counter have the same keep factor, so one operation updates them.
    operations, by_average = [], dict[object, list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]()
    for variable, delta, factor in variables:
        addend = _addend(variable, delta)
        if _is_one_operation(variable, factor):
            kind = variable.key if variable.average is None else variable.average
            by_average.setdefault(kind, []).append((variable.home_handle, addend, factor))
            continue
        value = tf.raw_ops.ReadVariableOp(resource=variable.home_handle, dtype=variable.dtype)
        if variable.dtype == tf.bool:
            value = value_after(variable, value, delta, factor)
            operations.append(tf.raw_ops.AssignVariableOp(resource=variable.home_handle, value=value))
        else:
            lost = value * tf.cast(1 - factor, variable.dtype)
            operations.append(tf.raw_ops.AssignAddVariableOp(resource=variable.home_handle, value=addend - lost))
    for averages in by_average.values():
        handles, addends, factors = zip(*averages, strict=True)
        # Gradient descent at rate -1 adds. Its weight decay of 1 - d^k is applied first, so this is V = d^k V + a.
        hyper = tf.stack([-1.0, 1.0 - factors[0]])
        operations.append(apply_dense(ROW_RULES["sgd"], [[handle] for handle in handles], addends, hyper))
    return operations


def is_product(variable: DenseVariable) -> bool:
    """Returns whether a variable is a running product, whose factor differs from step to step."""
    return variable.average is not None and variable.average.decay is None


def _addend(variable: DenseVariable, delta: tf.Tensor) -> tf.Tensor:
    """Returns the value to add after scaling by the keep factor: `a`; 0 for a product, which is only scaled."""
    return tf.zeros_like(delta) if is_product(variable) else delta
