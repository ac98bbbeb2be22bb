"""Resolves the `params` that users pass to a table, and looks up its rows."""

from typing import TypeAlias

import tensorflow as tf

from tfps.checks import check_number
from tfps.embedding.lookup import look_up
from tfps.embedding.pooled import pool
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.nn.bags import Bags
from tfps.ops.combine_rows import combine_rows

Params: TypeAlias = Table | tf.Variable | tf.Tensor
"""A table, or any other value that `tf.nn` looks up rows in."""


def resolve_params(params: object) -> Params | list[Params]:
    """Returns the table that `params` is or holds; otherwise `params` in the form that `tf.nn` takes.

    Args:
        params: a table, a Keras variable, any other value that `tf.nn` takes, or a list of these. `tf.nn` does not
            accept Keras variables, so it gets their values.

    Raises:
        UnsupportedError: `params` lists a table together with something else.
    """
    if not isinstance(params, (list, tuple)):
        return _resolve_part(params)
    parts = [_resolve_part(part) for part in params]
    # `tf.nn` treats a list as the shards of one table.
    if len(parts) > 1 and any(isinstance(part, Table) for part in parts):
        raise UnsupportedError(
            "`params` must not list a table together with other parts, because a plan already splits the table. "
            f"Received: {parts}. Valid: one table, or a list of tensors and variables."
        )
    return parts[0] if len(parts) == 1 else parts


def _resolve_part(part: tf.Variable) -> Params:
    """Returns the table or the value that a Keras variable holds, and any other part as it is."""
    # `_value` and not `value`: under mixed precision `value` casts the table, which would read all of it.
    table = getattr(part, "_value", None)
    if isinstance(table, Table):
        return table
    # `value` is a property of Keras variables. `tf.Variable` has a method of that name.
    return part.value if isinstance(getattr(type(part), "value", None), property) else part


def look_up_rows(table: Table, ids: tf.Tensor, max_norm: float | tf.Tensor | None = None) -> tf.Tensor:
    """Looks up rows of a table.

    Args:
        table: the table.
        ids: int32 or int64 tensor of any shape.
        max_norm: the largest l2 norm of a row; longer rows are scaled down to it. None for no limit.

    Returns:
        The rows, of shape `ids.shape + [dim]`.

    Raises:
        TypeError: `ids` have another dtype.
    """
    _check_ids(table, ids)
    if max_norm is None:
        return table.sparse_read(ids)
    if table.keeps_repeats:
        # As `tf.nn` does: the gradient of each place goes through a clip of its own.
        return tf.clip_by_norm(table.sparse_read(ids), max_norm, axes=[-1])
    clipped, places = _look_up_clipped(table, ids, max_norm)
    return tf.gather(clipped, tf.reshape(places, tf.shape(ids)))


def pool_rows(
    table: Table, bags: Bags, combiner: str, max_norm: float | tf.Tensor | None = None, per_place: bool = False
) -> tf.Tensor:
    """Looks up rows of a table and pools them bag by bag.

    Args:
        table: the table.
        bags: the bags of ids.
        combiner: "mean", "sqrtn" or "sum".
        max_norm: as for `look_up_rows`.
        per_place: whether a table that keeps repeats gets the gradient of each place; otherwise an id has one gradient
            for the call, as in `tf.nn.embedding_lookup_sparse`, which looks up unique ids.

    Returns:
        The pooled rows, [bags, dim]; 0 for an empty bag.

    Raises:
        TypeError: the ids are neither int32 nor int64.
    """
    _check_ids(table, bags.ids)
    # Without clipping, `pool` combines the rows straight from the answer of the servers.
    if max_norm is None:
        return pool(look_up(table, bags.ids), bags.pooling(combiner), per_place)
    clipped, places = _look_up_clipped(table, bags.ids, max_norm)
    return combine_rows(clipped, places, bags.pooling(combiner))


def _check_ids(table: Table, ids: tf.Tensor) -> None:
    """Raises `TypeError` if the ids are not integers."""
    if ids.dtype not in (tf.int32, tf.int64):
        raise TypeError(
            f"ids for table {table.name!r} must be integers. Received: {ids.dtype.name}. Valid: int32, int64."
        )


def _look_up_clipped(table: Table, ids: tf.Tensor, max_norm: float | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Looks up the unique ids, clips their rows, and returns these and the index of the row of each id, [ids]."""
    if not tf.is_tensor(max_norm):
        check_number("max_norm", max_norm, at_least=0, valid="a tensor, or None for rows as they are")
    # A norm costs more than a lookup, so repeated ids share one clipped row.
    unique, places = tf.unique(tf.reshape(ids, [-1]))
    return tf.clip_by_norm(table.sparse_read(unique), max_norm, axes=[1]), places
