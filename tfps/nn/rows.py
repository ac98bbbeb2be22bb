"""What callers pass as `params`, and the rows of a table."""

from typing import Any, TypeAlias

import tensorflow as tf

from tfps.embedding.lookup import look_up
from tfps.embedding.pooled import pool
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.nn.bags import Bags
from tfps.ops.combine_rows import combine_rows

Params: TypeAlias = Table | tf.Variable | tf.Tensor
"""What rows are looked up in: a table, or anything that `tf.nn` takes."""


def resolve_params(params: object) -> Params | list[Params]:
    """The table that `params` is or holds; else `params` in the form that `tf.nn` takes.

    Args:
        params: a table, a Keras variable, anything that `tf.nn` takes, or a list of these. `tf.nn` does not know Keras
            variables, so their values take their place.

    Raises:
        UnsupportedError: `params` lists a table together with something else.
    """
    if not isinstance(params, (list, tuple)):
        return _resolve_part(params)
    parts = [_resolve_part(part) for part in params]
    # tf.nn takes a list for the shards of one table.
    if len(parts) > 1 and any(isinstance(part, Table) for part in parts):
        raise UnsupportedError(
            "`params` must not list a table together with others as parts of one: a table is split by its plan. "
            f"Received: {parts}. Valid: one table, or tensors and variables alone."
        )
    return parts[0] if len(parts) == 1 else parts


def _resolve_part(part: Any) -> Params:
    table = getattr(part, "_value", None)
    if isinstance(table, Table):
        # Not `part.value`: under mixed precision that would cast the table, and so read all of it.
        return table
    return part.value if isinstance(getattr(type(part), "value", None), property) else part


def rows_of(table: Table, ids: tf.Tensor, max_norm: float | tf.Tensor | None = None) -> tf.Tensor:
    """Looks up rows of a table, of norm `max_norm` at most.

    Args:
        table: on the servers.
        ids: int32 or int64 tensor of any shape.
        max_norm: rows with a larger l2 norm are scaled down to it; none are where None.

    Returns:
        A tensor of shape `ids.shape + [dim]`.

    Raises:
        TypeError: `ids` are of another type.
    """
    _check_ids(table, ids)
    if max_norm is None:
        return table.sparse_read(ids)
    clipped, places = _look_up_clipped(table, ids, max_norm)
    return tf.gather(clipped, tf.reshape(places, tf.shape(ids)))


def pooled_rows_of(table: Table, bags: Bags, combiner: str, max_norm: float | tf.Tensor | None = None) -> tf.Tensor:
    """Looks up rows of a table, of norm `max_norm` at most, and pools them bag by bag.

    Args:
        table: on the servers.
        bags: of ids.
        combiner: "mean", "sqrtn" or "sum".
        max_norm: as for `rows_of`.

    Returns:
        A tensor [bags, dim]; 0 for an empty bag.

    Raises:
        TypeError: ids are of another type than int32 and int64.
    """
    _check_ids(table, bags.ids)
    if max_norm is None:
        return pool(look_up(table, bags.ids), bags.pooling(combiner))
    clipped, places = _look_up_clipped(table, bags.ids, max_norm)
    return combine_rows(clipped, places, bags.pooling(combiner))


def _check_ids(table: Table, ids: tf.Tensor) -> None:
    if ids.dtype not in (tf.int32, tf.int64):
        raise TypeError(
            f"ids for table {table.name!r} must be integers. Received: {ids.dtype.name}. Valid: int32, int64."
        )


def _look_up_clipped(table: Table, ids: tf.Tensor, max_norm: float | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The rows of the unique ids, each clipped once, and the position of the row of each id, [ids]."""
    # A norm costs more than a row: ids that repeat share one.
    unique, places = tf.unique(tf.reshape(ids, [-1]))
    return tf.clip_by_norm(table.sparse_read(unique), max_norm, axes=[1]), places
