"""Lookups of a step that is traced only to see what it looks up: placeholders stand for routes and rows.

The graph never runs, so nothing has to be routed or pulled in it. A lookup makes three operations here; one that works
makes a dozen, and takes the handle of each shard through all branches and loops around it. With hundreds of tables that
is a quarter of the time of such a trace.
"""

import tensorflow as tf

from tfps.embedding.lookup_group import LookupGroup, LookupResult, make_route_map
from tfps.embedding.routed_rows import RoutedRows
from tfps.ops.route_unique import RoutedIds

OPERATIONS = 16
"""The operations of a lookup that works, beyond those of one that is answered here."""


class PlaceholderLookups:
    """Answers lookups in one graph, which never runs."""

    def __init__(self) -> None:
        self._vectors: dict[tf.DType, tf.Tensor] = {}

    def look_up(self, table: RoutedRows, ids: tf.Tensor) -> LookupResult:
        """Returns a lookup with the shapes of a real one and without values.

        Args:
            table: the table.
            ids: an integer tensor of any shape, in the graph.
        """
        routes = make_route_map([table])
        places = tf.compat.v1.placeholder(tf.int32, ids.shape)
        answer = tf.compat.v1.placeholder(table.dtype, [None, table.dim])
        ids64, ids32 = self._vector(tf.int64), self._vector(tf.int32)
        pieces = tuple(len(of_server) for of_server in routes.pieces)
        requests = tuple(ids64 for _ in pieces)
        routed = RoutedIds(requests, ids64, ids32, ids64, (places,), pieces)
        group = LookupGroup((table,), routes, routed, answer, (ids64,), (places,), (places,))
        return LookupResult(table, group, 0)

    def _vector(self, dtype: tf.DType) -> tf.Tensor:
        """Returns a vector of unknown length; all lookups share it."""
        if dtype not in self._vectors:
            self._vectors[dtype] = tf.compat.v1.placeholder(dtype, [None])
        return self._vectors[dtype]
