"""Lookups: the worker sends one request with its unique ids to each server, and each server answers with their rows.

Cost of a step: for each server one request (counts and ids), one answer (rows) and one push (gradients), whatever the
number of tables and widths. The worker deduplicates the ids, and the server that holds the rows gathers them.
"""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfps import step
from tfps.embedding import row_cache
from tfps.embedding.inner_gradients import gradient_path
from tfps.embedding.lookup_group import LookupResult, route
from tfps.embedding.pulling import pull
from tfps.embedding.routed_rows import RoutedRows
from tfps.embedding.table_gradient import gradient_of_places, table_gradient, watch
from tfps.errors import IdRangeError, UnsupportedError
from tfps.ops.graph_gradient import with_gradient
from tfps.ops.segment_sum_rows import segment_sum_rows
from tfps.ops.shared_constants import gather_rows_at

_EXACT_FLOAT32 = 1 << 24
"""float32 holds every integer up to this one exactly, and not all above it."""


def look_up(table: RoutedRows, ids: tf.Tensor) -> LookupResult:
    """Looks up rows of one table: through the step under trace, or from the servers at once if there is no step.

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
            # The message says which id of which table is wrong. The frames below this one only hide it.
            raise error.with_traceback(None) from None
    # A regularizer of this step uses these ids to look up the same rows.
    current.looked_up.append((table, ids))
    found: LookupResult = current.lookups.look_up(table, ids)
    current.found.append(found)
    return found


def _check_not_rounded(table: RoutedRows, ids: tf.Tensor) -> None:
    """Raises if Keras cast the ids from floats, and such floats cannot hold every id of the table."""
    # Eager tensors do not say which operation made them, so this check sees graphs alone.
    any_id = table.routing.takes_any_id
    if (table.rows <= _EXACT_FLOAT32 and not any_id) or tf.executing_eagerly():
        return
    cast = ids.op
    # Keras counts negative ids from the end: where(ids < 0, ids + rows, ids).
    if cast.type == "SelectV2":
        cast = cast.inputs[2].op
    if cast.type == "Cast" and cast.inputs[0].dtype in (tf.float16, tf.bfloat16, tf.float32):
        raise UnsupportedError(
            f"ids of table {table.name!r} must be integers from the input on. Received: {cast.inputs[0].dtype.name}, "
            f"the dtype that Keras gives to an input without one. It rounds ids above {_EXACT_FLOAT32:,}; the table "
            + ("takes any id. " if any_id else f"has {table.rows:,} rows. ")
            + 'Valid: keras.Input(..., dtype="int64").'
        )


def fetch(tables: Sequence[RoutedRows], ids: Sequence[tf.Tensor]) -> list[LookupResult]:
    """Pulls the rows of several lookups together. Each row crosses once, however many lookups ask for it.

    Args:
        tables: the table of each lookup; several lookups may use the same table.
        ids: the ids of each lookup, an integer tensor of any shape.

    Returns:
        The result of each lookup. `expand` returns its rows in the shape of the ids; `tfps.embedding.pooled.pool` pools
        them.
    """
    with step.on_host():
        return _fetch(tables, ids)


def _fetch(tables: Sequence[RoutedRows], ids: Sequence[tf.Tensor]) -> list[LookupResult]:
    found = route(tables, ids)
    groups = list({id(result.group): result.group for result in found}.values())
    # Groups and results are immutable, so each group is replaced by a copy that has its answer. The results of one
    # group must share that copy, because the push compares groups by identity.
    cache = row_cache.current()
    answers = pull(groups) if cache is None else cache.pull(groups)
    answered = {
        id(group): dataclasses.replace(group, answer=answer) for group, answer in zip(groups, answers, strict=True)
    }
    return [dataclasses.replace(result, group=answered[id(result.group)]) for result in found]


def expand(found: LookupResult) -> tf.Tensor:
    """Returns the rows of one lookup in the shape of its ids, `ids.shape + [dim]`.

    Their gradient for the table is an IndexedSlices that has each id once, or one of all places if the table keeps
    repeats.
    """
    group = found.group
    if not watch(found):
        return gather_rows_at(group.answer, found.places)
    current = step.current()
    source, finish = gradient_path(current, found.table)

    def backward(upstream: tf.Tensor) -> list[tf.IndexedSlices]:
        # Under a mixed precision policy the layer casts the rows, but tables and their gradients stay float32.
        upstream = tf.cast(upstream, tf.float32)
        # Its shape is unknown where the model slices the rows by sizes that only the graph knows.
        shape = found.places.shape.concatenate([found.table.dim])
        if not shape.is_fully_defined() or upstream.shape != shape:
            upstream = tf.ensure_shape(upstream, shape)
        with step.on_host():
            if found.table.keeps_repeats:
                return [finish(gradient_of_places(current, found, upstream, found.places, found.table_places))]
            summed = segment_sum_rows([upstream], [found.table_places], tf.size(found.table_ids, tf.int64))
            return [finish(table_gradient(current, found, summed, (upstream, found.places)))]

    rows = gather_rows_at(group.answer, found.places)
    return with_gradient(rows, [source], backward)
