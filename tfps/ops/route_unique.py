"""The ids of a step made unique and sorted out by server, once for all tables of one width."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops import library
from tfps.ops.id_range import raised_eagerly
from tfps.ops.route_unique_graph import route_unique_graph
from tfps.ops.routes import RouteMap


@dataclasses.dataclass(frozen=True)
class RoutedIds:
    """What `route_unique` found.

    The answer is what the servers send back, one after the other: the matrix of the M unique rows.
    """

    requests: tuple[Any, ...]
    """One int64 vector a server: a count for each of its pieces, then their local rows; empty where it has no piece."""
    unique_ids: Any
    """int64, [M]: the id of each row of the answer."""
    table_order: Any
    """int32, [M]: the row of the answer of each unique id, table after table, and within a table as the ids came."""
    table_sizes: Any
    """int64, [tables]: unique ids of each table."""
    inverse: tuple[Any, ...]
    """One int32 tensor a table, the shape of its ids: the row of the answer that each id gets."""
    pieces: tuple[int, ...]
    """How many pieces each server has."""

    def answer_rows(self) -> list[Any]:
        """Rows of each server's answer, an int32 scalar each: the sizes by which to split gradients, [M, dim]."""
        return [tf.size(request) - pieces for request, pieces in zip(self.requests, self.pieces, strict=True)]


def route_unique(routes: RouteMap, ids: Sequence[Any]) -> RoutedIds:
    """Makes the ids of several tables unique and sorts them out by the server that holds their rows.

    Args:
        routes: the tables and their servers.
        ids: one integer tensor a table, any shape.

    Returns:
        The requests to send and how to read the answers. The order is the same with the library and without: server by
        server, piece by piece, and within a piece as the ids first came.

    Raises:
        ConfigError: there is not one tensor of ids a table.
        IdRangeError: an id is negative or not below its table's rows. In a graph this is an error of TensorFlow's until
            it reaches the chief, where `tfps.cluster.faults` translates it.
    """
    if len(ids) != len(routes.tables):
        raise ConfigError(f"`ids` must be one tensor a table, {len(routes.tables)}. Received: {len(ids)}.")
    ids = [tf.cast(tf.convert_to_tensor(tensor), tf.int64) for tensor in ids]
    ops = library.load()
    pieces = tuple(len(of_server) for of_server in routes.pieces)
    if ops is None:
        with raised_eagerly():
            return RoutedIds(*route_unique_graph(routes, ids), pieces)  # same fields, same order
    with raised_eagerly():
        routed = ops.tfps_route_unique(ids=ids, **_attributes(routes))
    return RoutedIds(
        requests=tuple(routed.requests),
        unique_ids=routed.unique_ids,
        table_order=routed.table_order,
        table_sizes=routed.table_sizes,
        inverse=tuple(routed.inverse),
        pieces=pieces,
    )


def _attributes(routes: RouteMap) -> dict[str, Any]:
    rules = [table.routing for table in routes.tables]
    return {
        "num_servers": routes.num_servers,
        "tables": [table.name for table in routes.tables],
        "kinds": [rule.kind for rule in rules],
        "rows": [rule.rows for rule in rules],
        "shards": [rule.shards for rule in rules],
        "multipliers": [rule.multiplier for rule in rules],
        "offsets": [rule.offset for rule in rules],
        "servers": [server for table in routes.tables for server in table.servers],
    }
