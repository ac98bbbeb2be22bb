"""`RoutedGradients`: row gradients of the tables of one kind, summed by row and sorted by server."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfps.embedding.lookup_group import LookupGroup, routes_of
from tfps.embedding.routed_rows import RoutedRows
from tfps.embedding.table_gradient import TableGradient, sum_in_answer_order
from tfps.ops.apply_rows import pack_update
from tfps.ops.route_unique import RoutedIds, route_unique
from tfps.ops.routes import RouteMap
from tfps.ops.segment_sum_rows import segment_sum_rows


@dataclasses.dataclass(frozen=True, eq=False)
class RoutedGradients:
    """Gradients of tables of one kind: for each server what it has to apply.

    Args:
        tables: each once, in the order in which the pieces count them.
        routes: where their shards are.
        requests: for each server the rows that have a gradient, as `route_unique` makes them.
        blocks: for each server their gradients, [m, dim].
    """

    tables: tuple[RoutedRows, ...]
    routes: RouteMap
    requests: tuple[tf.Tensor, ...]
    blocks: tuple[tf.Tensor, ...]

    @classmethod
    def from_group(cls, group: LookupGroup, summed: tf.Tensor) -> "RoutedGradients":
        """Gradients of the rows of a lookup group, [M, dim] in the order of its answer: its requests serve again."""
        return cls(group.tables, group.routes, group.routed.requests, _blocks(group.routes, group.routed, summed))

    def message(self, server: int, factor: tf.Tensor) -> tf.Tensor:
        """What one server gets: the rows and `factor` times their gradients, float32; 0 times NaN is 0."""
        # The mean over an empty batch may be NaN, and a worker without examples must leave zeros.
        block = tf.math.multiply_no_nan(self.blocks[server], factor)
        return pack_update(tf.zeros([0]), self.requests[server], block)


def route_gradients(
    tables: Sequence[RoutedRows], gradients: Sequence[tf.IndexedSlices], known: Sequence[TableGradient]
) -> RoutedGradients:
    """Sums gradients by row and sorts them by server.

    Args:
        tables: of one kind, each once.
        gradients: one a table; ids may repeat.
        known: what the lookups of this step gave as gradients. Where `gradients` are the same tensors the sorting of
            the lookup serves again.
    """
    unchanged = _find_unchanged(gradients, known)
    if unchanged:
        return RoutedGradients.from_group(unchanged[0].group, sum_in_answer_order(unchanged))
    # Ids may repeat: two lookups of one table, say. The ops that serve lookups make them unique here as well.
    routes = routes_of(tables)
    routed = route_unique(routes, [gradient.indices for gradient in gradients])
    summed = segment_sum_rows([gradient.values for gradient in gradients], routed.inverse, tf.size(routed.unique_ids))
    return RoutedGradients(tuple(tables), routes, routed.requests, _blocks(routes, routed, summed))


def _blocks(routes: RouteMap, routed: RoutedIds, summed: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The part of each server of rows in the order of its requests."""
    if routes.num_servers == 1:
        return (summed,)
    return tuple(tf.split(summed, routed.answer_rows(), num=routes.num_servers))


def _find_unchanged(gradients: Sequence[tf.IndexedSlices], known: Sequence[TableGradient]) -> list[TableGradient]:
    """What the lookups gave that these gradients are, in the order of the tables of their group.

    Empty unless the gradients are exactly those of one group: every table of it, each looked up once, and none of them
    changed since.
    """
    # An optimizer that clips, or a tape that adds two lookups up, makes new tensors: identity tells.
    given = {id(gradient.values): gradient for gradient in known}
    sources = [given.get(id(gradient.values)) for gradient in gradients]
    group = sources[0].group if sources[0] is not None else None
    by_table = {id(source.table): source for source in sources if source is not None and source.group is group}
    if group is None or len(by_table) != len(gradients) or len(gradients) != len(group.tables):
        return []
    return [by_table[id(table)] for table in group.tables]
