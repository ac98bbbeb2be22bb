"""From the ids of a step to what each server is asked for, as a graph."""

import dataclasses
from typing import Any

import tensorflow as tf

from tfps.placement.routing import PRIME, Routing


@dataclasses.dataclass(frozen=True, eq=False)
class Route:
    """The unique rows that a step wants of one group of tables: same servers, width and dtype.

    Two orders are used. Table order: the unique ids of table 0, then those of table 1 and so on. Server order: what
    server 0 holds, then server 1; within one server, table after table.

    Args:
        unique_ids: for each table its unique ids, [m_t].
        inverse: for each table, position in its `unique_ids` of each id asked for, [n_t], int32.
        order: for each position in server order the position in table order, [M]; None with one server, where the two
            orders are the same.
        local_rows: for each server the rows within its shards, [m_s], table after table.
        counts: for each server, how many of them belong to each table, [tables], int64.
    """

    unique_ids: list[Any]
    inverse: list[Any]
    order: Any
    local_rows: list[Any]
    counts: list[Any]

    def to_server_order(self, rows: Any) -> list[Any]:
        """Rows in table order, [M, dim], as one block a server."""
        if self.order is None:
            return [rows]
        return tf.split(tf.gather(rows, self.order), [tf.size(local) for local in self.local_rows])

    def to_table_order(self, blocks: list[Any]) -> list[Any]:
        """One block of rows a server as one block a table, [m_t, dim]."""
        if self.order is None:
            rows = blocks[0]
        else:
            rows = tf.gather(tf.concat(blocks, 0), tf.math.invert_permutation(self.order))
        return tf.split(rows, [tf.size(unique) for unique in self.unique_ids]) if len(self.unique_ids) > 1 else [rows]


def locate(routing: Routing, ids: Any) -> tuple[Any, Any]:
    """`Routing.locate` as a graph: (shard, local row), both int64 and of the shape of `ids`."""
    base, extra, shards = routing.base, routing.extra, routing.shards
    if shards == 1:
        return tf.zeros_like(ids), ids
    if routing.kind == "div":
        shard = tf.maximum(ids // (base + 1), (ids - extra) // base)
        return shard, ids - shard * base - tf.minimum(shard, extra)
    local, turn = ids // shards, ids % shards
    return (turn + _rotation(routing, local)) % shards, local


def global_of(routing: Routing, shard: int, local: Any) -> Any:
    """`Routing.global_of` as a graph: the ids that local rows of one shard hold."""
    if routing.kind == "div":
        return local + (shard * routing.base + min(shard, routing.extra))
    return local * routing.shards + (shard - _rotation(routing, local)) % routing.shards


def _rotation(routing: Routing, local: Any) -> Any:
    mixed = (local % PRIME * routing.multiplier + routing.offset) % PRIME
    return tf.where(local < routing.base, mixed * mixed % PRIME % routing.shards, tf.zeros_like(mixed))


def route(routings: list[Routing], names: list[str], ids: list[Any]) -> Route:
    """Removes repeats and sorts what is left by server.

    Args:
        routings: one a table, all with the same number of shards.
        names: of the tables, for messages.
        ids: one flat int64 tensor a table.

    Returns:
        The route.
    """
    pairs = [tf.unique(checked(i, r.rows, n)) for r, n, i in zip(routings, names, ids, strict=True)]
    uniques, inverses = [p.y for p in pairs], [p.idx for p in pairs]
    located = [locate(r, u) for r, u in zip(routings, uniques, strict=True)]
    local = tf.concat([found[1] for found in located], 0)
    sizes = tf.stack([tf.size(u, tf.int64) for u in uniques])
    shards, tables = routings[0].shards, len(routings)
    if shards == 1:
        return Route(uniques, inverses, None, [local], [sizes])
    shard = tf.concat([found[0] for found in located], 0)
    cell = shard * tables + tf.repeat(tf.range(tables, dtype=tf.int64), sizes)
    counts = tf.reshape(tf.math.bincount(tf.cast(cell, tf.int32), minlength=shards * tables, dtype=tf.int64), [shards, tables])
    order = tf.argsort(shard, stable=True)
    blocks = tf.split(tf.gather(local, order), tf.reduce_sum(counts, 1), num=shards)
    return Route(uniques, inverses, order, blocks, tf.unstack(counts, num=shards))


def checked(ids: Any, rows: int, name: str) -> Any:
    """The ids, after a check of their range that fails with the name of the table."""
    bad = tf.boolean_mask(ids, (ids < 0) | (ids >= rows))
    message = f"tfps: every id of table {name} must be at least 0 and below {rows}. Received:"
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(tf.size(bad), 0), [message, bad[:1]])]):
        return tf.identity(ids)
