"""What a caller names as `params`, and the rows of a table."""

from typing import Any

import tensorflow as tf

from tfps.embedding.table import Table
from tfps.errors import UnsupportedError


def held(params: Any) -> Any:
    """The table that `params` is or holds; else `params` as `tf.nn` takes it, for which a Keras variable is its value.

    Args:
        params: a table, a Keras variable, anything that `tf.nn` takes, or a list of these.

    Raises:
        UnsupportedError: `params` lists a table together with something else.
    """
    if not isinstance(params, (list, tuple)):
        return _held_by(params)
    parts = [_held_by(part) for part in params]
    if len(parts) > 1 and any(isinstance(part, Table) for part in parts):
        raise UnsupportedError(
            "`params` must not list a table together with others as parts of one: a table is split by its plan. "
            f"Received: {parts}. Valid: one table, or tensors and variables alone."
        )
    return parts[0] if len(parts) == 1 else parts


def _held_by(part: Any) -> Any:
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
    if ids.dtype not in (tf.int32, tf.int64):
        raise TypeError(
            f"ids for table {table.name!r} must be integers. Received: {ids.dtype.name}. Valid: int32, int64."
        )
    if max_norm is None:
        return table.sparse_read(ids)
    unique, places = tf.unique(tf.reshape(ids, [-1]))  # each row is clipped once, however often it is asked for
    clipped = tf.clip_by_norm(table.sparse_read(unique), max_norm, axes=[1])
    return tf.gather(clipped, tf.reshape(places, tf.shape(ids)))
