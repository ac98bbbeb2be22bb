"""Lookups: unique ids travel to the servers in one request each, their rows come back in one answer each.

Cost of a step: per server one request (counts and ids), one answer (rows) and one push (gradients), whatever the number
of tables of one width. The ids are deduplicated on the worker, the gather runs beside the rows.
"""

import dataclasses
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import tape as tape_lib  # how a variable tells the tapes that it was read is not public

from tfps import step
from tfps.embedding.route import Route, route


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What one lookup gets.

    Args:
        table: that was asked.
        ids: the unique ids asked for, [m].
        rows: their rows, [m, dim].
        inverse: position in `rows` of each id of this lookup, flat, [n].
        shape: of the lookup's result.
        route: how the rows were found, to be used again by the push.
    """

    table: Any
    ids: Any
    rows: Any
    inverse: Any
    shape: Any
    route: Route


def lookup(tables: list[Any], ids: list[Any]) -> list[Any]:
    """Rows for several lookups at once.

    Args:
        tables: a table a lookup; one table may come more than once.
        ids: integer tensors of any shape, one a lookup.

    Returns:
        For each lookup a tensor of shape `ids.shape + [dim]`. Its gradient for the table is an IndexedSlices in which
        each id of the lookup comes once.
    """
    return [expand(found) for found in fetch(tables, ids)]


def fetch(tables: list[Any], ids: list[Any]) -> list[Found]:
    """Asks the servers; the rows are not yet expanded to the shape of the ids."""
    ids = [tf.convert_to_tensor(i) for i in ids]
    found: dict[int, Found] = {}
    groups: dict[Any, list[int]] = {}
    for i, table in enumerate(tables):
        groups.setdefault((table.servers, table.dim, table.dtype), []).append(i)
    for members in groups.values():
        found.update(_fetch_group([(i, tables[i], ids[i]) for i in members]))
    return [found[i] for i in range(len(tables))]


def _fetch_group(members: list[tuple[int, Any, Any]]) -> dict[int, Found]:
    tables = list(dict.fromkeys(table for _, table, _ in members))
    flat = {i: tf.reshape(tf.cast(ids, tf.int64), [-1]) for i, _, ids in members}
    of_table = {t: [(i, ids) for i, table, ids in members if table is t] for t in tables}
    joined = [tf.concat([flat[i] for i, _ in of_table[t]], 0) for t in tables]
    way = route([t.routing for t in tables], [t.name for t in tables], joined)
    rows = way.to_table_order(pull_rows(tables, way))
    found = {}
    for t, unique, inverse, block in zip(tables, way.unique_ids, way.inverse, rows, strict=True):
        parts = tf.split(inverse, [tf.size(flat[i]) for i, _ in of_table[t]])
        for (i, wanted), part in zip(of_table[t], parts, strict=True):
            found[i] = Found(t, unique, block, part, _row_shape(wanted, t.dim), way)
    return found


def _row_shape(ids: Any, dim: int) -> Any:
    if ids.shape.is_fully_defined():
        return [*ids.shape.as_list(), dim]
    return tf.concat([tf.shape(ids), [dim]], 0)


def pull_rows(tables: list[Any], way: Route) -> list[Any]:
    """The rows of a route, one block [m_s, dim] a server: gathered beside the shards."""
    blocks = []
    for index, (counts, local) in enumerate(zip(way.counts, way.local_rows, strict=True)):
        request = tf.concat([counts, local], 0)
        with tf.device(tables[0].shards[index].device):
            request = tf.identity(request)
            blocks.append(gather_rows([t.shards[index] for t in tables], request[len(tables) :], request[: len(tables)]))
    return blocks


def gather_rows(shards: list[Any], local: Any, counts: Any) -> Any:
    """Rows of several variables of one server, [m, dim].

    Args:
        shards: variables [rows, dim].
        local: their rows, [m], variable after variable.
        counts: how many belong to each variable, [shards].
    """
    parts = [local] if len(shards) == 1 else tf.split(local, counts, num=len(shards))
    rows = [
        tf.raw_ops.ResourceGather(resource=shard.handle, indices=part, dtype=shard.dtype)
        for shard, part in zip(shards, parts, strict=True)
    ]
    return rows[0] if len(rows) == 1 else tf.concat(rows, 0)


def expand(found: Found) -> Any:
    """The rows of one lookup in the shape of its ids, with their gradient."""
    table = found.table
    current = step.current()
    if current is None or not table.trainable:
        return _expanded(found)
    tape_lib.variable_accessed(table)

    @tf.custom_gradient
    def with_gradient(_: Any) -> Any:
        def backward(upstream: Any) -> Any:
            values = tf.reshape(tf.cast(upstream, table.dtype), [-1, table.dim])
            summed = tf.math.unsorted_segment_sum(values, found.inverse, tf.shape(found.rows)[0])
            return tf.IndexedSlices(summed, found.ids, dense_shape=tf.constant([table.rows, table.dim], tf.int64))

        return _expanded(found), backward

    return with_gradient(current.gradient_source(table.key))


def _expanded(found: Found) -> Any:
    rows = tf.reshape(tf.gather(found.rows, found.inverse), found.shape)
    return rows
