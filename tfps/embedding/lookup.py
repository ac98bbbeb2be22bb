"""Lookups: unique ids travel to the servers in one request each, their rows come back in one answer each.

Cost of a step: per server one request (counts and ids), one answer (rows) and one push (gradients), whatever the number
of tables of one width. The ids are deduplicated on the worker, the gather runs beside the rows.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import tape as tape_lib  # how a variable tells the tapes that it was read is not public

from tfps import step
from tfps.ops.gather_rows import gather_rows
from tfps.ops.route_unique import RoutedIds, route_unique
from tfps.ops.routes import RouteMap, TableRoute
from tfps.ops.segment_sum_rows import segment_sum_rows


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Tables of one width and dtype, and what a step asks of them.

    Args:
        tables: each once.
        routes: where their shards are.
        routed: the ids of this step.
        answer: the unique rows, [M, dim]: what the servers sent, one after the other.
        tallies: for each table its unique ids.
        places: for each lookup the row of the answer of each of its ids, of the shape of the ids.
        table_places: for each lookup the same as positions in the tally of its table.
    """

    tables: tuple[Any, ...]
    routes: RouteMap
    routed: RoutedIds
    answer: Any
    tallies: tuple[Any, ...]
    places: tuple[Any, ...]
    table_places: tuple[Any, ...]

    def in_answer_order(self, rows: Sequence[Any]) -> Any:
        """Rows of the tallies, one [m_t, dim] a table, as one matrix in the order of the answer, [M, dim]."""
        if len(rows) == 1:
            return rows[0]
        return tf.gather(tf.concat(rows, 0), tf.math.invert_permutation(self.routed.table_order))


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """One lookup's share of a group: `index` counts the group's lookups."""

    table: Any
    group: Group
    index: int


def lookup(tables: Sequence[Any], ids: Sequence[Any]) -> list[Any]:
    """Rows for several lookups at once.

    Args:
        tables: a table a lookup; one table may come more than once.
        ids: integer tensors of any shape, one a lookup.

    Returns:
        For each lookup a tensor of shape `ids.shape + [dim]`. Its gradient for the table is an IndexedSlices in which
        each id comes once.
    """
    return [expand(found) for found in fetch(tables, ids)]


def fetch(tables: Sequence[Any], ids: Sequence[Any]) -> list[Found]:
    """Asks the servers; the rows are not yet expanded to the shapes of the ids. Arguments as in `lookup`."""
    by_kind: dict[Any, list[int]] = {}
    for i, table in enumerate(tables):
        by_kind.setdefault((table.dim, table.dtype), []).append(i)
    found: dict[int, Found] = {}
    for members in by_kind.values():
        group = _fetch_group([tables[i] for i in members], [ids[i] for i in members])
        found.update({i: Found(tables[i], group, index) for index, i in enumerate(members)})
    return [found[i] for i in range(len(tables))]


def _fetch_group(tables: Sequence[Any], ids: Sequence[Any]) -> Group:
    """One request and one answer a server for tables of one width."""
    unique = list({id(table): table for table in tables}.values())
    ids = [tf.cast(tf.convert_to_tensor(wanted), tf.int64) for wanted in ids]
    of_table = [[i for i, table in enumerate(tables) if table is one] for one in unique]
    routes = routes_of(unique)
    routed = route_unique(routes, [_joined([ids[i] for i in lookups]) for lookups in of_table])
    tallies, local = _by_table(routed)
    places: dict[int, tuple[Any, Any]] = {}
    for lookups, inverse, positions in zip(of_table, routed.inverse, local, strict=True):
        wanted = [ids[i] for i in lookups]
        places.update(zip(lookups, zip(_parted(inverse, wanted), _parted(positions, wanted), strict=True), strict=True))
    ordered = [places[i] for i in range(len(tables))]
    answer = _pull(unique, routes, routed)
    return Group(tuple(unique), routes, routed, answer, tallies, *(tuple(of) for of in zip(*ordered, strict=True)))


def _by_table(routed: RoutedIds) -> tuple[tuple[Any, ...], list[Any]]:
    """For each table its unique ids, and its inverse as positions in them."""
    if len(routed.inverse) == 1:
        return (routed.unique_ids,), [routed.inverse[0]]
    position = tf.math.invert_permutation(routed.table_order)
    starts = tf.unstack(tf.cast(tf.cumsum(routed.table_sizes, exclusive=True), tf.int32), num=len(routed.inverse))
    tallies = tf.split(tf.gather(routed.unique_ids, routed.table_order), routed.table_sizes, num=len(routed.inverse))
    return tuple(tallies), [
        tf.gather(position, inverse) - start for inverse, start in zip(routed.inverse, starts, strict=True)
    ]


def routes_of(tables: Sequence[Any]) -> RouteMap:
    """Where the shards of some tables are, as the ops need it."""
    routes = tuple(TableRoute(table.name, table.routing, table.servers) for table in tables)
    return RouteMap(routes, max(server for table in tables for server in table.servers) + 1)


def pieces_of(tables: Sequence[Any], routes: RouteMap) -> list[list[tuple[Any, int]]]:
    """For each server the (table, shard) it holds, in the order of its requests; empty where it holds none."""
    return [[(tables[table], shard) for table, shard in pieces] for pieces in routes.pieces]


def _joined(ids: list[Any]) -> Any:
    return ids[0] if len(ids) == 1 else tf.concat([tf.reshape(wanted, [-1]) for wanted in ids], 0)


def _parted(inverse: Any, ids: list[Any]) -> list[Any]:
    if len(ids) == 1:
        return [inverse]
    parts = tf.split(inverse, [tf.size(wanted) for wanted in ids])
    return [tf.reshape(part, tf.shape(wanted)) for part, wanted in zip(parts, ids, strict=True)]


def _pull(tables: Sequence[Any], routes: RouteMap, routed: RoutedIds) -> Any:
    """The rows, gathered beside the shards: one request and one answer a server."""
    blocks = [
        gather_rows([table.shards[shard] for table, shard in pieces], request)
        for pieces, request in zip(pieces_of(tables, routes), routed.requests, strict=True)
        if pieces
    ]
    return blocks[0] if len(blocks) == 1 else tf.concat(blocks, 0)


def expand(found: Found) -> Any:
    """The rows of one lookup in the shape of its ids, with their gradient for the table."""
    table, group, index = found.table, found.group, found.index
    current = step.current()
    if current is None or not table.trainable:
        return tf.gather(group.answer, group.places[index])
    tape_lib.variable_accessed(table)
    number = next(i for i, one in enumerate(group.tables) if one is table)

    def backward(upstream: Any) -> Any:
        ids, places = group.tallies[number], group.table_places[index]
        summed = segment_sum_rows([tf.cast(upstream, tf.float32)], [places], tf.size(ids, tf.int64))
        current.gradients.append(TableGradient(table, group, summed))
        return tf.IndexedSlices(summed, ids, dense_shape=tf.constant([table.rows, table.dim], tf.int64))

    @tf.custom_gradient
    def with_gradient(_: Any) -> Any:
        return tf.gather(group.answer, group.places[index]), backward

    return with_gradient(current.gradient_source(table.key))


@dataclasses.dataclass(frozen=True, eq=False)
class TableGradient:
    """What the backward pass of one lookup gave: the sums of a table's unique ids in a group, [m_t, dim]."""

    table: Any
    group: Group
    values: Any
