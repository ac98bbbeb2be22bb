"""`RoutedGradients`: the row gradients of tables of one kind, summed by row and sorted by server."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfps.embedding import wire
from tfps.embedding.coded_update import UpdateCodec
from tfps.embedding.lookup_group import LookupGroup, make_route_map
from tfps.embedding.routed_rows import RoutedRows
from tfps.embedding.table_gradient import Summed, TableGradient, sum_in_answer_order, sum_places
from tfps.ops.apply_rows import pack_update
from tfps.ops.route_unique import RoutedIds, route_unique
from tfps.ops.routes import RouteMap
from tfps.ops.rules.declaration import Measure, measure_of


@dataclasses.dataclass(frozen=True, eq=False)
class RoutedGradients:
    """The gradients of tables of one kind that each server has to apply.

    Args:
        tables: the tables, each once, in the order in which `routes` numbers them.
        routes: the shards of the tables and their servers.
        requests: for each server, the rows that have a gradient, in the form of a request of `route_unique`.
        blocks: for each server, the gradients of these rows, [m, dim].
        measures: for each server, the summed measures of the rows that `requests` marks, [r, dim]; None if the
            gradients of repeated ids are summed first.
        measure: what `measures` has.
    """

    tables: tuple[RoutedRows, ...]
    routes: RouteMap
    requests: tuple[tf.Tensor, ...]
    blocks: tuple[tf.Tensor, ...]
    measures: tuple[tf.Tensor, ...] | None = None
    measure: Measure | None = None

    @classmethod
    def from_routed(
        cls,
        tables: tuple[RoutedRows, ...],
        routes: RouteMap,
        routed: RoutedIds,
        summed: Summed,
        measure: Measure | None = None,
    ) -> "RoutedGradients":
        """Makes the gradients from their sums in the order of `routed`."""
        blocks = _split_by_server(routes, routed.answer_rows(), summed.rows)
        if summed.marks is None:
            return cls(tables, routes, routed.requests, blocks, None, measure)
        marks = _split_by_server(routes, routed.answer_rows(), summed.marks)
        requests = tuple(
            request + tf.pad(of_server, [[pieces, 0]])
            for request, of_server, pieces in zip(routed.requests, marks, routed.pieces, strict=True)
        )
        # Rows are sorted by server, and measures are in the order of their rows.
        repeats = [tf.math.count_nonzero(of_server) for of_server in marks]
        measures = _split_by_server(routes, repeats, summed.measures)
        return cls(tables, routes, requests, blocks, measures, measure)

    @classmethod
    def from_group(cls, group: LookupGroup, summed: Summed, measure: Measure | None = None) -> "RoutedGradients":
        """Makes the gradients of a lookup group from the sums for its unique rows.

        Args:
            group: the lookup group.
            summed: the gradients, [M, dim], in the order of the group's answer.
            measure: what their measures are, if they have some.
        """
        # The answer is sorted by server, so the requests of the lookup serve again for the push.
        return cls.from_routed(group.tables, group.routes, group.routed, summed, measure)

    def codec(self, server: int) -> UpdateCodec | None:
        """Returns the codec of a server's update in the closure under trace; None if it crosses as it is."""
        codec = wire.codec_of(self.tables[0])
        if codec is None:
            return None
        return UpdateCodec(codec, len(self.routes.pieces[server]), self.tables[0].dim, self.measures is not None)

    def pack(self, server: int, hyper: tf.Tensor) -> tf.Tensor:
        """Packs the update of one server, coded by its codec if it has one."""
        measures = None if self.measures is None else self.measures[server]
        return self._pack(server, hyper, self.blocks[server], measures)

    def _pack(self, server: int, hyper: tf.Tensor, block: tf.Tensor, measures: tf.Tensor | None) -> tf.Tensor:
        codec = self.codec(server)
        if codec is None:
            return pack_update(hyper, self.requests[server], block, measures)
        store = wire.store_handles(self.tables, server)
        return codec.encode(hyper, self.requests[server], block, measures, store)

    def message(self, server: int, factor: tf.Tensor) -> tf.Tensor:
        """Packs the rows of one server and their gradients times `factor` like `pack`; 0 times NaN is 0."""
        # The mean loss of an empty batch is NaN, and so are its gradients. A worker without examples must leave zeros.
        block = tf.math.multiply_no_nan(self.blocks[server], factor)
        measures = None
        if self.measures is not None:
            measures = tf.math.multiply_no_nan(self.measures[server], measure_of(self.measure, factor))
        return self._pack(server, tf.zeros([0]), block, measures)


def route_gradients(
    tables: Sequence[RoutedRows],
    gradients: Sequence[tf.IndexedSlices],
    known: Sequence[TableGradient],
    measure: Measure | None = None,
) -> RoutedGradients:
    """Sums gradients by row and sorts them by server.

    Args:
        tables: the tables, of one kind, each once.
        gradients: the gradient of each table; ids may repeat.
        known: the gradients from the lookups of this step. If `gradients` are the same tensors, the routing of the
            lookup serves again.
        measure: what is summed beside the gradients of an id that repeats; None for nothing.
    """
    unchanged = _find_unchanged(gradients, known)
    if unchanged:
        return RoutedGradients.from_group(unchanged[0].group, sum_in_answer_order(unchanged, measure), measure)
    # Two lookups of one table may both have a gradient for an id. The op that deduplicates the ids of lookups does it
    # here as well.
    routes = make_route_map(tables)
    routed = route_unique(routes, [gradient.indices for gradient in gradients])
    values = [gradient.values for gradient in gradients]
    summed = sum_places(values, routed.inverse, tf.size(routed.unique_ids), measure)
    return RoutedGradients.from_routed(tuple(tables), routes, routed, summed, measure)


def _split_by_server(routes: RouteMap, sizes: Sequence[tf.Tensor], values: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Splits values that are sorted by server into the part of each server."""
    # A split into one part would only copy.
    if routes.num_servers == 1:
        return (values,)
    return tuple(tf.split(values, sizes, num=routes.num_servers))


def _find_unchanged(gradients: Sequence[tf.IndexedSlices], known: Sequence[TableGradient]) -> list[TableGradient]:
    """Returns the lookups' own gradients that `gradients` are, in the order of the tables of their group.

    The list is empty unless the gradients belong to one group, cover all its tables and are unchanged since the lookup.
    """
    # An optimizer that clips makes new tensors, and so does a tape that adds the gradients of two lookups. A gradient
    # is unchanged if its tensor is still the same object.
    by_values = {id(gradient.values): gradient for gradient in known}
    sources = [by_values.get(id(gradient.values)) for gradient in gradients]
    group = sources[0].group if sources[0] is not None else None
    by_table = {id(source.table): source for source in sources if source is not None and source.group is group}
    if group is None or len(by_table) != len(gradients) or len(gradients) != len(group.tables):
        return []
    found = [by_table[id(table)] for table in group.tables]
    # Gradients of places and gradients of unique ids do not make one sum in the order of the answer.
    of_places = {source.unsummed is not None for source in found if source.table.keeps_repeats}
    return [] if len(of_places) > 1 else found
