"""Moving averages of several workers: servers compose what the workers' steps did, in the order of arrival.

Averages do not add up: two workers that each pushed how far an average fell would take it below 0 together, and the
root of a second moment is NaN then. What k steps do to an average with decay d is the map v' = d^k v + a, where `a`
does not depend on v, and such maps can be made one after the other. So a worker pushes a = v' - d^k v and k, and the
server makes V = d^k V + a of the V that it has. The result is that of one process that makes the steps of all workers.
Of a product, such as Nadam's of its momenta, a worker pushes r = v'/v - 1, and the server makes V = V + r V.

Example: d = 0.9 and V = 1.0. Two workers pull 1.0 and see a gradient of 0, one step each. Each has v' = 0.9 and pushes
a = 0, k = 1; the server has 0.9, then 0.81. Had both pushed the difference -0.1, it would have 0.8.
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import tensorflow as tf

from tfps.ops.apply_dense import apply_dense
from tfps.ops.row_rules import ROW_RULES
from tfps.strategy.variables import Average, DenseVariable
from tfps.types import VariableKey

Deltas: TypeAlias = Mapping[VariableKey, tf.Tensor]
"""What a worker pushes of each dense variable, by key."""


def is_average(variable: DenseVariable, deltas: Deltas) -> bool:
    """Whether a variable is an average and the counter of its steps is among `deltas`."""
    # A model may be pulled without the counter of its optimizer: then the number of steps is not known.
    average = variable.average
    return average is not None and (average.decay is None or average.counter in deltas)


def keep_factor(variable: DenseVariable, deltas: Deltas) -> tf.Tensor:
    """The part of an average that its steps keep, d^k; of a product, its factor."""
    assert variable.average is not None
    if variable.average.decay is None:
        return 1 + deltas[variable.key]
    return keep(variable.average.decay, deltas[variable.average.counter], variable.dtype)


def keep(decay: float, steps: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """The part of an average with this decay that so many steps keep."""
    return tf.pow(tf.cast(decay, dtype), tf.cast(steps, dtype))


def push_value(variable: DenseVariable, before: tf.Tensor, after: tf.Tensor, deltas: Deltas) -> tf.Tensor:
    """What a worker pushes of an average that it moved from `before` to `after`: `a`, or `r` of a product."""
    assert variable.average is not None
    if variable.average.decay is None:
        return tf.math.divide_no_nan(after - before, before)
    return after - keep_factor(variable, deltas) * before


def value_after(variable: DenseVariable, value: tf.Tensor, deltas: Deltas) -> tf.Tensor:
    """The value of an average after a push, as the server computes it."""
    return value * keep_factor(variable, deltas) + _addend(variable, deltas[variable.key])


def compose(variables: Iterable[tuple[DenseVariable, tf.Tensor, tf.Tensor]]) -> list[tf.Operation]:
    """Applies pushes to averages on their server, each atomically; returns the operations.

    Args:
        variables: (variable, what was pushed of it, its keep factor as a float32 scalar) each.
    """
    # One operation for all averages of one decay: they have one keep factor.
    operations, alike = [], dict[Average, list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]()
    for variable, delta, factor in variables:
        assert variable.average is not None
        addend = _addend(variable, delta)
        if variable.dtype == tf.float32:
            alike.setdefault(variable.average, []).append((variable.home_handle, addend, factor))
        else:
            # The op is for float32 alone. Here two pushes at the same time may both read the value before them.
            value = tf.raw_ops.ReadVariableOp(resource=variable.home_handle, dtype=variable.dtype)
            lost = value * tf.cast(1 - factor, variable.dtype)
            operations.append(tf.raw_ops.AssignAddVariableOp(resource=variable.home_handle, value=addend - lost))
    for of_average in alike.values():
        handles, addends, factors = zip(*of_average, strict=True)
        # Gradient descent at rate -1 adds, and its weight decay of 1 - d^k comes before that: V = d^k V + a.
        hyper = tf.stack([-1.0, 1.0 - factors[0]])
        operations.append(apply_dense(ROW_RULES["sgd"], [[handle] for handle in handles], addends, hyper))
    return operations


def _addend(variable: DenseVariable, delta: tf.Tensor) -> tf.Tensor:
    """What is added once a part was kept: `a`; nothing of a product, whose keep factor has it all."""
    assert variable.average is not None
    return tf.zeros_like(delta) if variable.average.decay is None else delta
