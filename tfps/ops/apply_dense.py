"""Updates whole variables: one op for all variables of an optimizer, and one pass over the memory of each."""

from collections.abc import Sequence

import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops import library
from tfps.ops.row_rules import RowRule


def apply_dense(
    rule: RowRule, variables: Sequence[Sequence[tf.Tensor]], gradients: Sequence[tf.Tensor], hyper: tf.Tensor
) -> tf.Operation | None:
    """Updates variables and their slots in place.

    A Keras optimizer runs five to ten ops per variable, each a pass over memory. This is one op.

    Args:
        rule: the optimizer, one of `tfps.ops.row_rules.ROW_RULES` that works element by element.
        variables: for each gradient, the handle of its variable and then of its slots in the rule's order; float32.
        gradients: the gradients, float32, each of the shape of its variable.
        hyper: the rule's hyperparameters in order, then the decay, float32 [h + 1].

    Returns:
        The operation, or None in eager mode.

    Raises:
        ConfigError: the number of slots is not the rule's, or the rule has slots with one number per row.
        tf.errors.InvalidArgumentError: a variable or slot differs in shape from its gradient.
    """
    if not rule.elementwise:
        raise ConfigError(
            f"`rule` must work element by element, as a whole variable has no rows. Received: {rule.name!r}."
        )
    for handles in variables:
        if len(handles) != 1 + len(rule.slots):
            raise ConfigError(
                f"`variables` must be a variable and its slots {rule.slot_names} for rule {rule.name!r}. "
                f"Received: {len(handles)} handles."
            )
    ops = library.load()
    if ops is None:
        return apply_dense_graph(rule, variables, gradients, hyper)
    # The op takes all variables, then the first slot of each variable, and so on.
    handles = [handles[i] for i in range(1 + len(rule.slots)) for handles in variables]
    return ops.tfps_apply_dense(variables=handles, gradients=list(gradients), hyperparameters=hyper, rule=rule.name)


def apply_dense_graph(
    rule: RowRule, variables: Sequence[Sequence[tf.Tensor]], gradients: Sequence[tf.Tensor], hyper: tf.Tensor
) -> tf.Operation | None:
    """Does the same with TensorFlow's own ops; see `apply_dense`."""
    operations = []
    for handles, gradient in zip(variables, gradients, strict=True):
        value, *slots = [tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32) for handle in handles]
        # Deltas are added, so that no update is lost when two run at once.
        for handle, delta in zip(handles, rule.deltas(value, slots, gradient, hyper), strict=True):
            operations.append(tf.raw_ops.AssignAddVariableOp(resource=handle, value=delta))
    return tf.group(*operations)
