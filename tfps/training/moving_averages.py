"""Moving averages of several workers: the steps of all are made one after the other, whenever they arrive.

Averages are no sums: two workers that each push how far an average fell would take it below 0 together, and the root of
a second moment is NaN then. What k steps do to an average with decay d is v' = d^k v + a, where `a` does not depend on
v, and such maps can be made one after the other. So a worker pushes a = v' - d^k v, and the server makes V = d^k V + a
of what it holds by then: what one process reaches that makes the steps of all. Of a product, such as Nadam's of its
momenta, a worker pushes r = v'/v - 1, and the server makes V = V + r V.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import tensorflow as tf

from tfps.ops.apply_dense import apply_dense
from tfps.ops.row_rules import ROW_RULES
from tfps.strategy.variables import Average, DenseVariable


def is_average(variable: DenseVariable, deltas: Mapping[Hashable, Any]) -> bool:
    """Whether a variable is an average whose steps are counted among what was moved, `deltas` by key."""
    average = variable.average
    return average is not None and (average.decay is None or average.counter in deltas)


def kept(variable: DenseVariable, deltas: Mapping[Hashable, Any]) -> Any:
    """The part of an average that its steps keep: d^k."""
    assert variable.average is not None
    if variable.average.decay is None:
        return 1 + deltas[variable.key]
    return keep(variable.average.decay, deltas[variable.average.counter], variable.dtype)


def keep(decay: float, steps: Any, dtype: Any = tf.float32) -> Any:
    """The part of an average with this decay that so many steps keep."""
    return tf.pow(tf.cast(decay, dtype), tf.cast(steps, dtype))


def pushed(variable: DenseVariable, before: Any, after: Any, deltas: Mapping[Hashable, Any]) -> Any:
    """What a worker pushes of an average that it moved from `before` to `after`."""
    assert variable.average is not None
    if variable.average.decay is None:
        return tf.math.divide_no_nan(after - before, before)
    return after - kept(variable, deltas) * before


def moved(variable: DenseVariable, value: Any, deltas: Mapping[Hashable, Any]) -> Any:
    """What a value of an average becomes by what was pushed of it."""
    return value * kept(variable, deltas) + _new(variable, deltas[variable.key])


def move(variables: Iterable[tuple[DenseVariable, Any, Any]]) -> list[Any]:
    """Moves averages where they are, atomically each; returns the operations.

    Args:
        variables: (variable, what was pushed of it, the part that is kept as a float32 scalar) each.
    """
    operations, alike = [], dict[Average, list[tuple[Any, Any, Any]]]()
    for variable, delta, part in variables:
        assert variable.average is not None
        new = _new(variable, delta)
        if variable.dtype == tf.float32:
            alike.setdefault(variable.average, []).append((variable.home_handle, new, part))
        else:  # the op is for float32: here two pushes at once may both see what was before them
            value = tf.raw_ops.ReadVariableOp(resource=variable.home_handle, dtype=variable.dtype)
            lost = value * tf.cast(1 - part, variable.dtype)
            operations.append(tf.raw_ops.AssignAddVariableOp(resource=variable.home_handle, value=new - lost))
    for of_average in alike.values():
        handles, news, parts = zip(*of_average, strict=True)
        # Gradient descent at rate -1 adds; what it lets decay before that is what an average does not keep.
        hyper = tf.stack([-1.0, 1.0 - parts[0]])
        operations.append(apply_dense(ROW_RULES["sgd"], [[handle] for handle in handles], news, hyper))
    return operations


def _new(variable: DenseVariable, delta: Any) -> Any:
    assert variable.average is not None
    return tf.zeros_like(delta) if variable.average.decay is None else delta
