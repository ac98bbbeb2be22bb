"""The way back: gradients of the rows a step asked for go to the servers, one message each, and are applied there."""

import dataclasses
from typing import Any

import tensorflow as tf

from tfps.embedding.route import Route, route
from tfps.embedding.row_rules import RowRule, apply_rule


@dataclasses.dataclass(frozen=True, eq=False)
class RowUpdate:
    """What one step wants done to one table.

    Args:
        table: the table.
        slots: its slot tables, in the order of the rule.
        gradient: `tf.IndexedSlices` for the table.
        rule: the optimizer's row-wise form.
        hyper: hyperparameters in the order of the rule and last the weight decay, float32 [h + 1].
    """

    table: Any
    slots: list[Any]
    gradient: Any
    rule: RowRule
    hyper: Any


def push(updates: list[RowUpdate], known: dict[int, Route]) -> list[Any]:
    """Applies updates beside their rows.

    Args:
        updates: at most one a table, all with one `hyper` per rule.
        known: routes of this step by the `id` of a gradient's `indices`; a gradient whose ids were not summed or came
            from several lookups is routed here.

    Returns:
        The operations, one a server and group of tables.
    """
    groups: dict[Any, list[RowUpdate]] = {}
    for update in updates:
        table = update.table
        groups.setdefault((table.servers, table.dim, table.dtype, update.rule.name, id(update.hyper)), []).append(update)
    return [operation for group in groups.values() for operation in _push_group(group, known)]


def _push_group(group: list[RowUpdate], known: dict[int, Route]) -> list[Any]:
    way, gradients = _routed(group, known)
    blocks = way.to_server_order(gradients)
    return [_push_to_server(group, index, way, block) for index, block in enumerate(blocks)]


def _routed(group: list[RowUpdate], known: dict[int, Route]) -> tuple[Route, Any]:
    """The route of the gradients and their values in its table order, [M, dim]."""
    indices = [update.gradient.indices for update in group]
    way = known.get(id(indices[0]))
    if way is not None and len(way.unique_ids) == len(indices) and all(a is b for a, b in zip(way.unique_ids, indices, strict=True)):
        return way, tf.concat([update.gradient.values for update in group], 0)
    tables = [update.table for update in group]
    way = route([t.routing for t in tables], [t.name for t in tables], [tf.cast(i, tf.int64) for i in indices])
    summed = [
        tf.math.unsorted_segment_sum(update.gradient.values, inverse, tf.size(unique))
        for update, inverse, unique in zip(group, way.inverse, way.unique_ids, strict=True)
    ]
    return way, tf.concat(summed, 0)


def _push_to_server(group: list[RowUpdate], index: int, way: Route, gradients: Any) -> Any:
    rule, tables, dim = group[0].rule, len(group), group[0].table.dim
    hypers = len(rule.hyperparameters) + 1
    request = tf.concat([way.counts[index], way.local_rows[index]], 0)
    message = tf.concat([group[0].hyper, _as_floats(request), tf.reshape(gradients, [-1])], 0)
    with tf.device(group[0].table.shards[index].device):
        message = tf.identity(message)
        counts = _as_integers(message[hypers : hypers + 2 * tables])
        rows = tf.reduce_sum(counts)
        start = hypers + 2 * tables
        local = _as_integers(message[start : start + 2 * rows])
        values = tf.reshape(message[start + 2 * rows :], [-1, dim])
        parts = [(local, values)] if tables == 1 else _split(local, values, counts, tables)
        return tf.group(
            *(
                apply_rule(rule, [t.shards[index] for t in (update.table, *update.slots)], message[:hypers], value, rows_)
                for update, (rows_, value) in zip(group, parts, strict=True)
            )
        )


def _split(local: Any, values: Any, counts: Any, tables: int) -> list[tuple[Any, Any]]:
    return list(zip(tf.split(local, counts, num=tables), tf.split(values, counts, num=tables), strict=True))


def _as_floats(integers: Any) -> Any:
    """The bits of [n] int64 as [2 n] float32, so that one tensor carries both."""
    return tf.reshape(tf.bitcast(integers, tf.float32), [-1])


def _as_integers(floats: Any) -> Any:
    """The inverse of `_as_floats`."""
    return tf.bitcast(tf.reshape(floats, [-1, 2]), tf.int64)
