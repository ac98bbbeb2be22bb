"""Updates of whole variables: all that one optimizer moves in a step, in one op and one pass over each."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops import library
from tfps.ops.row_rules import RowRule


def apply_dense(rule: RowRule, variables: Sequence[Sequence[Any]], gradients: Sequence[Any], hyper: Any) -> Any:
    """Updates variables and the slots that go with them, where they are.

    A Keras optimizer takes five to ten ops a variable, each a pass over memory; this is one.

    Args:
        rule: the optimizer, one of `tfps.ops.row_rules.ROW_RULES`.
        variables: for each gradient the handle of its variable, then those of its slots in the rule's order; float32.
        gradients: float32, each of the shape of its variable.
        hyper: the rule's hyperparameters in order and last the decay, float32 [h + 1].

    Returns:
        The operation; None when run eagerly.

    Raises:
        ConfigError: the variables are not as many as the rule has slots.
        tf.errors.InvalidArgumentError: a variable or slot has not the shape of its gradient.
    """
    for handles in variables:
        if len(handles) != 1 + len(rule.slots):
            raise ConfigError(
                f"`variables` must be a variable and its slots {rule.slots} for rule {rule.name!r}. "
                f"Received: {len(handles)} handles."
            )
    ops = library.load()
    if ops is None:
        return apply_dense_graph(rule, variables, gradients, hyper)
    handles = [handles[i] for i in range(1 + len(rule.slots)) for handles in variables]
    return ops.tfps_apply_dense(variables=handles, gradients=list(gradients), hyperparameters=hyper, rule=rule.name)


def apply_dense_graph(rule: RowRule, variables: Sequence[Sequence[Any]], gradients: Sequence[Any], hyper: Any) -> Any:
    """The same by TensorFlow's own ops; see `apply_dense`."""
    named = dict(zip(rule.hyperparameters, tf.unstack(hyper[:-1], num=len(rule.hyperparameters)), strict=True))
    operations = []
    for handles, gradient in zip(variables, gradients, strict=True):
        values = [tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32) for handle in handles]
        decayed = values[0] - values[0] * hyper[-1]
        deltas = rule.formula(decayed, values[1:], gradient, named)
        deltas[0] += decayed - values[0]
        for handle, delta in zip(handles, deltas, strict=True):
            operations.append(tf.raw_ops.AssignAddVariableOp(resource=handle, value=delta))
    return tf.group(*operations)
