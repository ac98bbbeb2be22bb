"""`route_unique` by TensorFlow's own ops, for where the library is not built, and to test it against."""

import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from tfps.ops.id_range import check_in_range
from tfps.ops.routes import RouteMap
from tfps.ops.routing_graph import locate

Routed: TypeAlias = tuple[tuple[Any, ...], Any, Any, Any, tuple[Any, ...]]


def route_unique_graph(routes: RouteMap, ids: Sequence[Any]) -> Routed:
    """Requests, unique ids, table order and sizes, inverse; arguments and order are those of `route_unique`."""
    unique, inverse = zip(*map(_unique_in_range, routes.tables, ids), strict=True)
    shards, local = zip(*(locate(t.routing, u) for t, u in zip(routes.tables, unique, strict=True)), strict=True)
    numbers = [tf.gather(of_shard, shard) for of_shard, shard in zip(_piece_numbers(routes), shards, strict=True)]
    piece = tf.concat(numbers, axis=0)
    order = tf.argsort(piece, stable=True)
    row_of = tf.math.invert_permutation(order)
    requests = _requests(routes, piece, tf.gather(tf.concat(local, axis=0), order))
    sizes = tf.stack([tf.size(u) for u in unique])
    starts = tf.cumsum(sizes, exclusive=True)
    inverse = tuple(
        tf.reshape(tf.gather(row_of, places + starts[t]), tf.shape(ids[t])) for t, places in enumerate(inverse)
    )
    unique_ids = tf.gather(tf.concat(unique, axis=0), order)
    return requests, unique_ids, row_of, tf.cast(sizes, tf.int64), inverse


def _unique_in_range(table: Any, ids: Any) -> tuple[Any, Any]:
    check = check_in_range(table.name, table.routing.rows, ids)
    with tf.control_dependencies([] if check is None else [check]):
        unique, inverse = tf.unique(tf.reshape(ids, [-1]))
    return unique, inverse


def _piece_numbers(routes: RouteMap) -> list[Any]:
    """For each table the number of each of its shards' pieces, counted over all servers, [shards]."""
    numbers = [np.zeros(table.routing.shards, np.int32) for table in routes.tables]
    for number, (table, shard) in enumerate(itertools.chain(*routes.pieces)):
        numbers[table][shard] = number
    return numbers


def _requests(routes: RouteMap, piece: Any, local: Any) -> tuple[Any, ...]:
    """For each server the counts of its pieces and the local rows; `local` is sorted by piece, `piece` need not be."""
    pieces = [len(of_server) for of_server in routes.pieces]
    # Sizes in int64, as the rows are, so that one vector can hold both.
    counts = tf.math.bincount(piece, minlength=sum(pieces), maxlength=sum(pieces), dtype=tf.int64)
    heads = tf.split(counts, pieces)
    rows = tf.split(local, [tf.reduce_sum(head) for head in heads], num=routes.num_servers)
    return tuple(tf.concat(parts, axis=0) for parts in zip(heads, rows, strict=True))
