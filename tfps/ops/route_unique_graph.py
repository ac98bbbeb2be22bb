"""`route_unique` with TensorFlow's own ops, for use without the library and to test the library against."""

import itertools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from tfps.ops.id_range import check_in_range
from tfps.ops.routes import RouteMap, TableRoute
from tfps.ops.routing_graph import locate

_Tensors: TypeAlias = tuple[tf.Tensor, ...]
Routed: TypeAlias = tuple[_Tensors, tf.Tensor, tf.Tensor, tf.Tensor, _Tensors]


def route_unique_graph(routes: RouteMap, ids: Sequence[tf.Tensor]) -> Routed:
    """Computes all fields of `RoutedIds` except the last, in order; see `route_unique` for the arguments."""
    # Per table: the unique ids, then their shards and local rows, then the piece of each id.
    unique, inverse = zip(*map(_unique_in_range, routes.tables, ids), strict=True)
    shards, local = zip(*(locate(t.routing, u) for t, u in zip(routes.tables, unique, strict=True)), strict=True)
    numbers = [tf.gather(of_shard, shard) for of_shard, shard in zip(_piece_numbers(routes), shards, strict=True)]
    piece = tf.concat(numbers, axis=0)
    # A stable sort keeps the ids of a piece in the order of their first occurrence.
    order = tf.argsort(piece, stable=True)
    # `order` has the id of each answer row; its inverse has the answer row of each id.
    row_of = tf.math.invert_permutation(order)
    requests = _requests(routes, piece, tf.gather(tf.concat(local, axis=0), order))
    sizes = tf.stack([tf.size(u) for u in unique])
    # The position of each table's first unique id among those of all tables.
    starts = tf.cumsum(sizes, exclusive=True)
    inverse = tuple(
        tf.reshape(tf.gather(row_of, places + starts[t]), tf.shape(ids[t])) for t, places in enumerate(inverse)
    )
    unique_ids = tf.gather(tf.concat(unique, axis=0), order)
    return requests, unique_ids, row_of, tf.cast(sizes, tf.int64), inverse


def _unique_in_range(table: TableRoute, ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    any_id = table.routing.kind == "key"
    check = None if any_id else check_in_range(table.name, table.routing.rows, ids)
    with tf.control_dependencies([] if check is None else [check]):
        unique, inverse = tf.unique(tf.reshape(ids, [-1]))
    return unique, inverse


def _piece_numbers(routes: RouteMap) -> list[tf.Tensor]:
    """Numbers the pieces over all servers; returns, for each table, the piece number of each shard, [shards]."""
    numbers = [np.zeros(table.routing.shards, np.int32) for table in routes.tables]
    for number, (table, shard) in enumerate(itertools.chain(*routes.pieces)):
        numbers[table][shard] = number
    return numbers


def _requests(routes: RouteMap, piece: tf.Tensor, local: tf.Tensor) -> _Tensors:
    """Makes the request of each server: the counts of its pieces, then local rows. `local` must be sorted by piece."""
    pieces = [len(of_server) for of_server in routes.pieces]
    # The counts are int64 like the rows, so that one vector can hold both.
    counts = tf.math.bincount(piece, minlength=sum(pieces), maxlength=sum(pieces), dtype=tf.int64)
    heads = tf.split(counts, pieces)
    rows = tf.split(local, [tf.reduce_sum(head) for head in heads], num=routes.num_servers)
    return tuple(tf.concat(parts, axis=0) for parts in zip(heads, rows, strict=True))
