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
        places: for each lookup its table's position in `tables`, and the row of the answer of each of its ids, of the
            shape of the ids.
    """

    tables: tuple[Any, ...]
    routes: RouteMap
    routed: RoutedIds
    answer: Any
    places: tuple[tuple[int, Any], ...]


def lookup(tables: Sequence[Any], ids: Sequence[Any]) -> list[Any]:
    """Rows for several lookups at once.

    Args:
        tables: a table a lookup; one table may come more than once.
        ids: integer tensors of any shape, one a lookup.

    Returns:
        For each lookup a tensor of shape `ids.shape + [dim]`. Its gradient for the table is an IndexedSlices in which
        each id comes once.
    """
    rows: dict[int, Any] = {}
    by_kind: dict[Any, list[int]] = {}
    for i, table in enumerate(tables):
        by_kind.setdefault((table.dim, table.dtype), []).append(i)
    for members in by_kind.values():
        group = fetch([tables[i] for i in members], [ids[i] for i in members])
        rows.update(zip(members, expand(group), strict=True))
    return [rows[i] for i in range(len(tables))]


def fetch(tables: Sequence[Any], ids: Sequence[Any]) -> Group:
    """Asks the servers for rows of tables of one width; the rows are not yet expanded to the shapes of the ids.

    Args:
        tables: a table a lookup.
        ids: integer tensors of any shape, one a lookup.
    """
    unique = list({id(table): table for table in tables}.values())
    position = {id(table): index for index, table in enumerate(unique)}
    ids = [tf.cast(tf.convert_to_tensor(wanted), tf.int64) for wanted in ids]
    of_table = [[i for i, table in enumerate(tables) if table is one] for one in unique]
    routes = routes_of(unique)
    routed = route_unique(routes, [_joined([ids[i] for i in lookups]) for lookups in of_table])
    places: dict[int, Any] = {}
    for lookups, inverse in zip(of_table, routed.inverse, strict=True):
        places.update(zip(lookups, _parted(inverse, [ids[i] for i in lookups]), strict=True))
    answer = _pull(unique, routes, routed)
    return Group(tuple(unique), routes, routed, answer, tuple((position[id(t)], places[i]) for i, t in enumerate(tables)))


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


def expand(group: Group) -> list[Any]:
    """The rows of each lookup in the shape of its ids, with their gradient."""
    current = step.current()
    trained = [table for table in group.tables if table.trainable]
    if current is None or not trained:
        return _expanded(group)
    for table in trained:
        tape_lib.variable_accessed(table)

    @tf.custom_gradient
    def with_gradient(*_: Any) -> Any:
        return _expanded(group), lambda *upstream: _table_gradients(current, group, trained, upstream)

    rows = with_gradient(*(current.gradient_source(table.key) for table in trained))
    return list(rows) if isinstance(rows, list | tuple) else [rows]


def _expanded(group: Group) -> list[Any]:
    return [tf.gather(group.answer, place) for _, place in group.places]


def _table_gradients(current: step.Step, group: Group, trained: list[Any], upstream: Sequence[Any]) -> Any:
    """One IndexedSlices a trained table; the step remembers the sum they were cut from, which the push needs whole."""
    summed = segment_sum_rows([tf.cast(g, tf.float32) for g in upstream], [p for _, p in group.places], tf.shape(group.answer)[0])
    routed = group.routed
    if len(group.tables) == 1:
        parts = [(summed, routed.unique_ids)]
    else:
        sizes = routed.table_sizes
        values = tf.split(tf.gather(summed, routed.table_order), sizes, num=len(group.tables))
        parts = list(zip(values, tf.split(tf.gather(routed.unique_ids, routed.table_order), sizes, num=len(values)), strict=True))
    slices = [
        tf.IndexedSlices(values, ids, dense_shape=tf.constant([table.rows, table.dim], tf.int64))
        for table, (values, ids) in zip(group.tables, parts, strict=True)
    ]
    current.gradients.append(TableGradients(group, tuple(slices), summed))
    wanted = [gradient for table, gradient in zip(group.tables, slices, strict=True) if table.trainable]
    return wanted if len(wanted) > 1 else wanted[0]


@dataclasses.dataclass(frozen=True, eq=False)
class TableGradients:
    """The gradients of one group: as the optimizer sees them, a table each, and as the servers take them.

    Args:
        group: that was looked up.
        slices: one IndexedSlices a table of the group.
        summed: all of them in the order of the answer, [M, dim].
    """

    group: Group
    slices: tuple[Any, ...]
    summed: Any
