"""Updates rows of several tables of one server, in one op that runs on that server."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops import library, stored_rows
from tfps.ops.row_request import REPEATS, common_width, split_request
from tfps.ops.row_rules import RowRule
from tfps.ops.rules.declaration import Measure, measure_of


def pack_update(
    hyper: tf.Tensor, request: tf.Tensor, gradients: tf.Tensor, measures: tf.Tensor | None = None
) -> tf.Tensor:
    """Packs an update for one server into one tensor, because every tensor that crosses the network costs a message.

    Args:
        hyper: the rule's hyperparameters in order, then the decay, float32, [h + 1].
        request: the request from `route_unique`, int64, [tables + m]. Within a table each row appears at most once.
            `REPEATS` is added to the number of each row that has measures.
        gradients: the gradients of the rows, float32, [m, dim], in the order of the request.
        measures: the summed measures of the gradients of the rows that repeat, float32, [r, dim]; None if none does.

    Returns:
        float32, [h + 1 + 2 * (tables + m) + (m + r) * dim]: the hyperparameters, the bits of the request, the
        gradients, the measures.
    """
    # The bits of an int64 pass unchanged as two float32 values; a cast would lose digits of large row numbers.
    bits = tf.reshape(tf.bitcast(request, tf.float32), [-1])
    rows = [gradients] if measures is None else [gradients, measures]
    return tf.concat([hyper, bits, *(tf.reshape(part, [-1]) for part in rows)], axis=0)


class Unpacked(NamedTuple):
    """The parts of an update.

    Args:
        hyper: the hyperparameters, float32 [h + 1].
        request: the request, int64 [pieces + m], with plain row numbers.
        gradients: the gradient of each row, float32 [m, dim].
        measures: the measure of each gradient, float32 [m, dim]; None if the rule takes none.
    """

    hyper: tf.Tensor
    request: tf.Tensor
    gradients: tf.Tensor
    measures: tf.Tensor | None


def unpack_update(message: tf.Tensor, hypers: int, pieces: int, dim: int, measure: Measure | None = None) -> Unpacked:
    """Unpacks the tensor that `pack_update` made.

    Args:
        message: the tensor from `pack_update`.
        hypers: the number of its hyperparameters, including the decay.
        pieces: the number of tables in its request.
        dim: the width of a row.
        measure: the measure that the rule takes; None if it takes none. No row has measures then.
    """
    if measure is None:
        # Each row takes 2 floats of the request, because its number has 64 bits, and `dim` floats of the gradients.
        rows = (tf.size(message) - hypers - 2 * pieces) // (dim + 2)
    else:
        # Rows that repeat have `dim` floats more, so the size does not tell how many rows there are. The counts do.
        counts = tf.bitcast(tf.reshape(message[hypers : hypers + 2 * pieces], [-1, 2]), tf.int64)
        room = (tf.size(message, tf.int64) - hypers - 2 * pieces) // (dim + 2)
        fits = tf.reduce_all((counts >= 0) & (counts <= room)) & (tf.reduce_sum(counts) <= room)
        message_ = "the counts of `message` must be at least 0 and add up to at most its rows. Received:"
        with tf.control_dependencies([tf.debugging.Assert(fits, [message_, counts])]):
            rows = tf.cast(tf.reduce_sum(counts), tf.int32)
    end = hypers + 2 * (pieces + rows)
    request = tf.bitcast(tf.reshape(message[hypers:end], [-1, 2]), tf.int64)
    if measure is None:
        return Unpacked(message[:hypers], request, tf.reshape(message[end:], [-1, dim]), None)
    gradients = tf.reshape(message[end : end + rows * dim], [-1, dim])
    repeats = request >= REPEATS
    where = tf.where(repeats[pieces:])
    measures = tf.tensor_scatter_nd_update(
        measure_of(measure, gradients), where, tf.reshape(message[end + rows * dim :], [-1, dim])
    )
    return Unpacked(message[:hypers], request - tf.cast(repeats, tf.int64) * REPEATS, gradients, measures)


def apply_rows(rule: RowRule, variables: Sequence[Sequence[tf.Variable]], message: tf.Tensor) -> tf.Operation | None:
    """Updates rows of the tables of one server, together with their slots.

    The C++ op locks a table and its slots while it reads, updates and writes their rows, so concurrent updates run one
    after the other. Without the library, deltas are computed from rows that were read earlier and are then added
    atomically. No update is lost, but of two concurrent updates of a row the second does not see the first.

    Args:
        rule: the optimizer, one of `tfps.ops.row_rules.ROW_RULES`.
        variables: for each table, in the order of the request's pieces, the table and then its slots in the rule's
            order. Each is float32 or bfloat16; a table is [any, dim], a slot [any, dim], or [any, 1] if it has one
            number per row. What is bfloat16 is updated in float32 and rounded at random (`tfps.ops.stored_rows`).
        message: the update, from `pack_update`.

    Returns:
        The operation, or None in eager mode.

    Raises:
        ConfigError: the tables are not matrices of one width and dtype, or their slots do not fit the rule.
        tf.errors.InvalidArgumentError: the message does not fit the variables.
    """
    dim = common_width([table[0] for table in variables])
    for table in variables:
        _check_slots(rule, table, dim)
    ops = library.load()
    with tf.device(variables[0][0].device):
        if ops is None or variables[0][0].dtype not in stored_rows.DTYPES:
            return apply_rows_graph(rule, variables, message)
        # The op takes all tables, then the first slot of each table, and so on.
        handles = [table[i].handle for i in range(1 + len(rule.slots)) for table in variables]
        return ops.tfps_apply_rows(variables=handles, message=message, tables=len(variables), dim=dim, rule=rule.name)


def apply_rows_graph(
    rule: RowRule, variables: Sequence[Sequence[tf.Variable]], message: tf.Tensor
) -> tf.Operation | None:
    """Does the same with TensorFlow's own ops; see `apply_rows`."""
    # Every rule has one more number than hyperparameters: the decay.
    dim, hypers = variables[0][0].shape[1], len(rule.hyperparameters) + 1
    update = unpack_update(message, hypers, len(variables), dim, rule.measure)
    counts, local = split_request(update.request, len(variables))
    gradients = tf.split(update.gradients, counts, num=len(variables))
    measures = split_measures(update, counts, len(variables))
    updates = zip(variables, local, gradients, measures, strict=True)
    return tf.group(*(_update(rule, table, update.hyper, *rows) for table, *rows in updates))


def split_measures(update: Unpacked, counts: tf.Tensor, tables: int) -> list[tf.Tensor | None]:
    """Returns the measures of each table, float32 [m_t, dim]; None for each if the rule takes none.

    Args:
        update: an update.
        counts: the number of rows of each table, int64 [tables].
        tables: the number of tables.
    """
    return [None] * tables if update.measures is None else tf.split(update.measures, counts, num=tables)


def update_deltas(
    rule: RowRule,
    rows: Sequence[tf.Tensor],
    hyper: tf.Tensor,
    gradient: tf.Tensor,
    measure: tf.Tensor | None = None,
) -> list[tf.Tensor]:
    """Computes what an update adds to some rows and to their slots.

    Args:
        rule: the optimizer.
        rows: the rows of the table, [m, dim], then the same rows of each slot.
        hyper: the hyperparameters in the rule's order, then the decay, [h + 1].
        gradient: the gradient of each row, [m, dim].
        measure: the measure of each gradient, [m, dim]; None to compute it from the gradient.

    Returns:
        A delta for each tensor of `rows`, of the same shape.
    """
    # A message is always float32; a table may have another dtype.
    hyper, gradient = tf.cast(hyper, rows[0].dtype), tf.cast(gradient, rows[0].dtype)
    measure = None if measure is None else tf.cast(measure, rows[0].dtype)
    return rule.deltas(rows[0], list(rows[1:]), gradient, hyper, measure)


def _check_slots(rule: RowRule, table: Sequence[tf.Variable], dim: int) -> None:
    """Checks that a table is followed by the slots of the rule."""
    if len(table) != 1 + len(rule.slots):
        raise ConfigError(
            f"`variables` must be a table and its slots {rule.slot_names} for rule {rule.name!r}. "
            f"Received: {len(table)} variables."
        )
    for slot, variable in zip(rule.slots, table[1:], strict=True):
        alike = variable.dtype == table[0].dtype or {variable.dtype, table[0].dtype} <= set(stored_rows.DTYPES)
        if not alike or variable.shape.rank != 2 or variable.shape[1] != slot.width(dim):
            raise ConfigError(
                f"slot {slot.name!r} of a table must be {table[0].dtype.name} with {slot.width(dim)} columns for rule "
                f"{rule.name!r}. Received: {variable.dtype.name} of shape {variable.shape}."
            )


def _update(
    rule: RowRule,
    table: Sequence[tf.Variable],
    hyper: tf.Tensor,
    local: tf.Tensor,
    gradient: tf.Tensor,
    measure: tf.Tensor | None,
) -> tf.Operation:
    """Updates the rows `local` of one table and its slots."""
    rows = [stored_rows.read_rows(variable, local) for variable in table]
    deltas = update_deltas(rule, rows, hyper, gradient, measure)
    deltas = [
        stored_rows.round_delta(old, delta) if variable.dtype == tf.bfloat16 else delta
        for variable, old, delta in zip(table, rows, deltas, strict=True)
    ]
    where = local[:, tf.newaxis]
    # ResourceScatterAdd takes the lock shared; ResourceScatterNdAdd excludes other writers, so no addition is lost.
    return tf.group(
        *(
            tf.raw_ops.ResourceScatterNdAdd(ref=variable.handle, indices=where, updates=delta, use_locking=True)
            for variable, delta in zip(table, deltas, strict=True)
        )
    )
