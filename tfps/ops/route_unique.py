"""Removes repeated ids of a step and sorts the rest by server, for all tables of one width at once."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops import library
from tfps.ops.id_range import translate_eager_errors
from tfps.ops.route_unique_graph import route_unique_graph
from tfps.ops.routes import RouteMap


@dataclasses.dataclass(frozen=True)
class RoutedIds:
    """The unique ids of a step, by server.

    The *answer* is the matrix of the M unique rows: the rows that the servers send back, one server after the other.
    """

    requests: tuple[tf.Tensor, ...]
    """An int64 vector for each server: the row count of each piece, then the local rows; empty without pieces."""
    unique_ids: tf.Tensor
    """int64, [M]: the id of each row of the answer."""
    table_order: tf.Tensor
    """int32, [M]: the answer row of each unique id, table by table, in the order of first occurrence."""
    table_sizes: tf.Tensor
    """int64, [tables]: the number of unique ids of each table."""
    inverse: tuple[tf.Tensor, ...]
    """An int32 tensor for each table, of the shape of its ids: the answer row of each id."""
    pieces: tuple[int, ...]
    """The number of pieces of each server."""

    def answer_rows(self) -> list[tf.Tensor]:
        """Returns the number of rows in each server's answer, int32 scalars, by which to split gradients, [M, dim]."""
        # A request is one count for each piece and then one number for each row.
        return [tf.size(request) - pieces for request, pieces in zip(self.requests, self.pieces, strict=True)]


def route_unique(routes: RouteMap, ids: Sequence[tf.Tensor]) -> RoutedIds:
    """Removes repeated ids of several tables and sorts the rest by the server that holds their rows.

    Args:
        routes: the tables and their servers.
        ids: an integer tensor for each table, any shape.

    Returns:
        The requests to send, and the positions by which to read the answers. The library and the graph produce the same
        order: server by server, piece by piece, and within a piece by first occurrence.

    Raises:
        ConfigError: the number of id tensors differs from the number of tables.
        IdRangeError: an id is negative or not below its table's rows. From a graph it arrives at the chief as an error
            of TensorFlow, which `tfps.cluster.faults` translates.
    """
    if len(ids) != len(routes.tables):
        raise ConfigError(f"`ids` must be one tensor a table, {len(routes.tables)}. Received: {len(ids)}.")
    ids = [tf.cast(tf.convert_to_tensor(tensor), tf.int64) for tensor in ids]
    ops = library.load()
    pieces = tuple(len(of_server) for of_server in routes.pieces)
    if ops is None:
        with translate_eager_errors():
            # The graph returns the same fields in the same order.
            return RoutedIds(*route_unique_graph(routes, ids), pieces)
    with translate_eager_errors():
        routed = ops.tfps_route_unique(ids=ids, **_op_attributes(routes))
    return RoutedIds(
        requests=tuple(routed.requests),
        unique_ids=routed.unique_ids,
        table_order=routed.table_order,
        table_sizes=routed.table_sizes,
        inverse=tuple(routed.inverse),
        pieces=pieces,
    )


def _op_attributes(routes: RouteMap) -> dict[str, Any]:
    # An op's attribute is a flat list, so the op gets the servers of all tables joined and splits them by `shards`.
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
