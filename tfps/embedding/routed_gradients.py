"""`RoutedGradients`: the row gradients of tables of one kind, summed by row and sorted by server."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfps.embedding.lookup_group import LookupGroup, make_route_map
from tfps.embedding.routed_rows import RoutedRows
from tfps.embedding.table_gradient import TableGradient, sum_in_answer_order
from tfps.ops.apply_rows import pack_update
from tfps.ops.route_unique import RoutedIds, route_unique
from tfps.ops.routes import RouteMap
from tfps.ops.segment_sum_rows import segment_sum_rows


@dataclasses.dataclass(frozen=True, eq=False)
class RoutedGradients:
    """The gradients of tables of one kind that each server has to apply.

    Args:
        tables: the tables, each once, in the order in which `routes` numbers them.
        routes: the shards of the tables and their servers.
        requests: for each server, the rows that have a gradient, in the form of a request of `route_unique`.
        blocks: for each server, the gradients of these rows, [m, dim].
    """

    tables: tuple[RoutedRows, ...]
    routes: RouteMap
    requests: tuple[tf.Tensor, ...]
    blocks: tuple[tf.Tensor, ...]

    @classmethod
    def from_group(cls, group: LookupGroup, summed: tf.Tensor) -> "RoutedGradients":
        """Makes the gradients of a lookup group from the sums for its unique rows.

        Args:
            group: the lookup group.
            summed: the gradients, [M, dim], in the order of the group's answer.
        """
        # The answer is sorted by server, so the requests of the lookup serve again for the push.
        return cls(group.tables, group.routes, group.routed.requests, _blocks(group.routes, group.routed, summed))

    def message(self, server: int, factor: tf.Tensor) -> tf.Tensor:
        """Packs the rows of one server and their gradients times `factor` into a float32 message; 0 times NaN is 0."""
        # The mean loss of an empty batch is NaN, and so are its gradients. A worker without examples must leave zeros.
        block = tf.math.multiply_no_nan(self.blocks[server], factor)
        return pack_update(tf.zeros([0]), self.requests[server], block)


def route_gradients(
    tables: Sequence[RoutedRows], gradients: Sequence[tf.IndexedSlices], known: Sequence[TableGradient]
) -> RoutedGradients:
    """Sums gradients by row and sorts them by server.

    Args:
        tables: the tables, of one kind, each once.
        gradients: the gradient of each table; ids may repeat.
        known: the gradients from the lookups of this step. If `gradients` are the same tensors, the routing of the
            lookup serves again.
    """
    unchanged = _find_unchanged(gradients, known)
    if unchanged:
        return RoutedGradients.from_group(unchanged[0].group, sum_in_answer_order(unchanged))
    # Two lookups of one table may both have a gradient for an id. The op that deduplicates the ids of lookups does it
    # here as well.
    routes = make_route_map(tables)
    routed = route_unique(routes, [gradient.indices for gradient in gradients])
    summed = segment_sum_rows([gradient.values for gradient in gradients], routed.inverse, tf.size(routed.unique_ids))
    return RoutedGradients(tuple(tables), routes, routed.requests, _blocks(routes, routed, summed))


def _blocks(routes: RouteMap, routed: RoutedIds, summed: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Splits rows that are sorted by server into the block of each server."""
    # A split into one part would only copy.
    if routes.num_servers == 1:
        return (summed,)
    return tuple(tf.split(summed, routed.answer_rows(), num=routes.num_servers))


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
    return [by_table[id(table)] for table in group.tables]
