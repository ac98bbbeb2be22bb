"""What a caller names as `params`, and the rows of a table."""

from typing import Any

import tensorflow as tf

from tfps.embedding.lookup import look_up
from tfps.embedding.pooled import pool
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.nn.bags import Bags
from tfps.ops.combine_rows import combine_rows


def resolve_params(params: Any) -> Any:
    """The table that `params` is or holds; else `params` as `tf.nn` takes it, for which a Keras variable is its value.

    Args:
        params: a table, a Keras variable, anything that `tf.nn` takes, or a list of these.

    Raises:
        UnsupportedError: `params` lists a table together with something else.
    """
    if not isinstance(params, (list, tuple)):
        return _resolve_part(params)
    parts = [_resolve_part(part) for part in params]
    if len(parts) > 1 and any(isinstance(part, Table) for part in parts):
        raise UnsupportedError(
            "`params` must not list a table together with others as parts of one: a table is split by its plan. "
            f"Received: {parts}. Valid: one table, or tensors and variables alone."
        )
    return parts[0] if len(parts) == 1 else parts


def _resolve_part(part: Any) -> Any:
    table = getattr(part, "_value", None)
    if isinstance(table, Table):
        return table  # under mixed precision `value` would cast it: read all of it
    return part.value if isinstance(getattr(type(part), "value", None), property) else part


def rows_of(table: Table, ids: Any, max_norm: Any = None) -> Any:
    """Rows of a table, of norm `max_norm` at most.

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
    clipped, places = _clipped_rows(table, ids, max_norm)
    return tf.gather(clipped, tf.reshape(places, tf.shape(ids)))


def pooled_rows_of(table: Table, bags: Bags, combiner: str, max_norm: Any = None) -> Any:
    """Rows of a table, of norm `max_norm` at most, pooled bag by bag.

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
    clipped, places = _clipped_rows(table, bags.ids, max_norm)
    return combine_rows(clipped, places, bags.pooling(combiner))


def _check_ids(table: Table, ids: Any) -> None:
    if ids.dtype not in (tf.int32, tf.int64):
        raise TypeError(
            f"ids for table {table.name!r} must be integers. Received: {ids.dtype.name}. Valid: int32, int64."
        )


def _clipped_rows(table: Table, ids: Any, max_norm: Any) -> tuple[Any, Any]:
    """Each row that is asked for, clipped once however often that is, and which of them each id has."""
    unique, places = tf.unique(tf.reshape(ids, [-1]))
    return tf.clip_by_norm(table.sparse_read(unique), max_norm, axes=[1]), places
