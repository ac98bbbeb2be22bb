"""Lookups: unique ids travel to the servers in one request each, their rows come back in one answer each.

Cost of a step: per server one request (counts and ids), one answer (rows) and one push (gradients), whatever the number
of tables and of their widths. The ids are deduplicated on the worker, the gather runs beside the rows.
"""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfps import step
from tfps.embedding.lookup_group import LookupResult, route
from tfps.embedding.pulling import pull
from tfps.embedding.routed_rows import RoutedRows
from tfps.embedding.table_gradient import table_gradient, watch
from tfps.errors import IdRangeError, UnsupportedError
from tfps.ops.graph_gradient import with_gradient
from tfps.ops.segment_sum_rows import segment_sum_rows

_EXACT_FLOAT32 = 1 << 24
"""float32 holds every integer up to this one exactly, and not all above it."""


def look_up(table: RoutedRows, ids: tf.Tensor) -> LookupResult:
    """The rows of one table: from the step under trace, or from the servers at once where there is none.

    Args:
        table: the table.
        ids: integer tensor of any shape.
    """
    _check_not_rounded(table, ids)
    current = step.current()
    if current is None:
        try:
            return fetch([table], [ids])[0]
        except IdRangeError as error:
            raise error.with_traceback(None) from None  # frames below this one say nothing to the user
    # Regularizers ask for the rows of the step again, by these ids.
    current.looked_up.append((table, ids))
    return current.lookups.look_up(table, ids)


def _check_not_rounded(table: RoutedRows, ids: tf.Tensor) -> None:
    """Refuses ids that were float32 before Keras cast them to integers, where float32 cannot hold all rows."""
    if table.rows <= _EXACT_FLOAT32 or tf.executing_eagerly():
        return
    cast = ids.op
    # Keras counts negative ids from the end: where(ids < 0, ids + rows, ids).
    if cast.type == "SelectV2":
        cast = cast.inputs[2].op
    if cast.type == "Cast" and cast.inputs[0].dtype in (tf.float16, tf.bfloat16, tf.float32):
        raise UnsupportedError(
            f"ids of table {table.name!r} must be integers from the input on: as {cast.inputs[0].dtype.name}, which is "
            f"what Keras makes of an input that has no dtype, ids above {_EXACT_FLOAT32:,} are rounded, and the table "
            f'has {table.rows:,} rows. Valid: keras.Input(..., dtype="int64").'
        )


def fetch(tables: Sequence[RoutedRows], ids: Sequence[tf.Tensor]) -> list[LookupResult]:
    """Pulls the rows of several lookups at once, each row once.

    Args:
        tables: a table a lookup; one table may come more than once.
        ids: integer tensors of any shape, one a lookup.

    Returns:
        A result a lookup: `expand` gives it the shape of its ids, `tfps.embedding.pooled.pool` pools it.
    """
    found = route(tables, ids)
    groups = list({id(one.group): one.group for one in found}.values())
    # Results are values: the routed ones stay as they are, and the answered ones share one new group for each old one.
    answered = {
        id(group): dataclasses.replace(group, answer=answer) for group, answer in zip(groups, pull(groups), strict=True)
    }
    return [dataclasses.replace(one, group=answered[id(one.group)]) for one in found]


def expand(found: LookupResult) -> tf.Tensor:
    """The rows of one lookup in the shape of its ids, `ids.shape + [dim]`.

    Their gradient for the table is an IndexedSlices in which each id comes once.
    """
    group = found.group
    current = watch(found)
    if current is None:
        return tf.gather(group.answer, found.places)

    def backward(upstream: tf.Tensor) -> list[tf.IndexedSlices]:
        # Under a mixed precision policy the layer has cast the rows, but tables and gradients are float32.
        upstream = tf.cast(upstream, tf.float32)
        summed = segment_sum_rows([upstream], [found.table_places], tf.size(found.table_ids, tf.int64))
        return [table_gradient(current, found, summed, (upstream, found.places))]

    rows = tf.gather(group.answer, found.places)
    return with_gradient(rows, [current.gradient_source(found.table.key)], backward)
