"""Updates of rows of several tables of one server, in one op that runs there."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops import library
from tfps.ops.row_request import split_request, width
from tfps.ops.row_rules import RowRule


def pack_update(hyper: Any, request: Any, gradients: Any) -> Any:
    """Makes one tensor of what a server needs for an update, because each tensor that crosses costs a message.

    Args:
        hyper: the rule's hyperparameters in order and last the decay, float32, [h + 1].
        request: int64, [tables + m], from `route_unique`; within a table each row at most once.
        gradients: float32, [m, dim], in the order of the request.

    Returns:
        float32, [h + 1 + 2 * (tables + m) + m * dim]: the hyperparameters, the bits of the request, the gradients.
    """
    bits = tf.reshape(tf.bitcast(request, tf.float32), [-1])
    return tf.concat([hyper, bits, tf.reshape(gradients, [-1])], axis=0)


def unpack_update(message: Any, hypers: int, pieces: int, dim: int) -> tuple[Any, Any, Any]:
    """Takes apart what `pack_update` made.

    Args:
        message: from `pack_update`.
        hypers: hyperparameters that it begins with, the decay among them.
        pieces: tables of its request.
        dim: width of a row.

    Returns:
        (hyperparameters float32 [hypers], request int64 [pieces + m], gradients float32 [m, dim]).
    """
    # A row takes 2 lanes of the request, as its number is 64 bits wide, and `dim` of the gradients.
    rows = (tf.size(message) - hypers - 2 * pieces) // (dim + 2)
    end = hypers + 2 * (pieces + rows)
    request = tf.bitcast(tf.reshape(message[hypers:end], [-1, 2]), tf.int64)
    return message[:hypers], request, tf.reshape(message[end:], [-1, dim])


def apply_rows(rule: RowRule, variables: Sequence[Sequence[Any]], message: Any) -> Any:
    """Updates rows of the tables of one server, and the slots that go with them.

    In C++ a table and its slots are locked while their rows are read, updated and written, once each: concurrent
    updates follow one another. Without the library deltas are computed from rows read before and then added, each
    variable's atomically: none is lost, but of two updates of one row at once the second knows nothing of the first.

    Args:
        rule: the optimizer, one of `tfps.ops.row_rules.ROW_RULES`.
        variables: for each table of the server, in the order of the request's pieces: the table, then its slots in the
            rule's order; float32, a table [any, dim], a slot [any, dim] or, where the rule has one number a row,
            [any, 1].
        message: from `pack_update`.

    Returns:
        The operation; None when run eagerly.

    Raises:
        ConfigError: the tables are no matrices of one width and dtype, or their slots are not those of the rule.
        tf.errors.InvalidArgumentError: the message does not fit the variables.
    """
    dim = width([table[0] for table in variables])
    for table in variables:
        _check_slots(rule, table, dim)
    ops = library.load()
    with tf.device(variables[0][0].device):
        if ops is None or variables[0][0].dtype != tf.float32:
            return apply_rows_graph(rule, variables, message)
        handles = [table[i].handle for i in range(1 + len(rule.slots)) for table in variables]
        return ops.tfps_apply_rows(variables=handles, message=message, tables=len(variables), dim=dim, rule=rule.name)


def apply_rows_graph(rule: RowRule, variables: Sequence[Sequence[Any]], message: Any) -> Any:
    """The same by TensorFlow's own ops; see `apply_rows`."""
    dim, hypers = variables[0][0].shape[1], len(rule.hyperparameters) + 1
    hyper, request, rows = unpack_update(message, hypers, len(variables), dim)
    counts, local = split_request(request, len(variables))
    updates = zip(variables, local, tf.split(rows, counts, num=len(variables)), strict=True)
    return tf.group(*(_update(rule, table, hyper, where, gradient) for table, where, gradient in updates))


def update_deltas(rule: RowRule, rows: Sequence[Any], hyper: Any, gradient: Any) -> list[Any]:
    """What an update adds to some rows and to their slots.

    Args:
        rule: the optimizer.
        rows: the rows, [m, dim], and those of each slot.
        hyper: hyperparameters in the rule's order and last the decay, [h + 1].
        gradient: [m, dim].

    Returns:
        A tensor like each of `rows`.
    """
    hyper, gradient = tf.cast(hyper, rows[0].dtype), tf.cast(gradient, rows[0].dtype)
    return rule.deltas(rows[0], list(rows[1:]), gradient, hyper)


def _check_slots(rule: RowRule, table: Sequence[Any], dim: int) -> None:
    """Checks that the slots behind a table are those of the rule."""
    if len(table) != 1 + len(rule.slots):
        raise ConfigError(
            f"`variables` must be a table and its slots {rule.slot_names} for rule {rule.name!r}. "
            f"Received: {len(table)} variables."
        )
    for slot, variable in zip(rule.slots, table[1:], strict=True):
        if variable.dtype != table[0].dtype or variable.shape.rank != 2 or variable.shape[1] != slot.width(dim):
            raise ConfigError(
                f"slot {slot.name!r} of a table must be {table[0].dtype.name} with {slot.width(dim)} columns for rule "
                f"{rule.name!r}. Received: {variable.dtype.name} of shape {variable.shape}."
            )


def _update(
    rule: RowRule, table: Sequence[Any], hyper: tf.Tensor, local: tf.Tensor, gradient: tf.Tensor
) -> tf.Operation:
    """Updates the local rows of one table."""
    rows = [tf.raw_ops.ResourceGather(resource=v.handle, indices=local, dtype=v.dtype) for v in table]
    deltas = update_deltas(rule, rows, hyper, gradient)
    where = local[:, tf.newaxis]
    # Unlike ResourceScatterAdd, which shares the lock, this op excludes other writers.
    return tf.group(
        *(
            tf.raw_ops.ResourceScatterNdAdd(ref=variable.handle, indices=where, updates=delta, use_locking=True)
            for variable, delta in zip(table, deltas, strict=True)
        )
    )
