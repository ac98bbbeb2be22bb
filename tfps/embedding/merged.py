"""Merges the row gradients of all workers on the server that holds the rows: each row gets one update by the mean.

Each worker leaves on each server the message that it would have pushed there. The server sums the gradients of each
row, divides by the number of examples, and applies the optimizer once. Rows and gradients never cross between servers.
Clipping by norm sends scalars between them.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import tensorflow as tf

from tfps.embedding.push import RowUpdate
from tfps.embedding.routed_rows import RoutedRows
from tfps.ops.apply_rows import pack_update, split_measures, unpack_update
from tfps.ops.route_unique import route_unique
from tfps.ops.routes import RouteMap, TableRoute
from tfps.ops.row_request import REPEATS, split_request
from tfps.ops.rules.declaration import Measure, measure_of
from tfps.ops.segment_sum_rows import segment_sum_rows
from tfps.placement.routing import Routing


@dataclasses.dataclass(frozen=True, eq=False)
class ServerRows:
    """The merged gradients of one server, for its pieces of tables of one kind.

    Args:
        pieces: the (table, shard) of each piece.
        request: the local rows that have a gradient, in the form of a request of `route_unique`.
        rows: their gradients, [m, dim], on the server.
        measures: the summed measures of the gradients of each row, [m, dim]; None if gradients are summed first.
        measure: what `measures` has.
    """

    pieces: tuple[tuple[RoutedRows, int], ...]
    request: tf.Tensor
    rows: tf.Tensor
    measures: tf.Tensor | None = None
    measure: Measure | None = None

    @functools.cached_property
    def split(self) -> tuple[list[tf.Tensor], list[tf.Tensor], list[tf.Tensor] | None]:
        """The local rows of each piece, int64 [m_p], their gradients and their measures, [m_p, dim]."""
        # Cached, because every table on the server that needs clipping would add these ops to the graph again.
        counts, local = split_request(self.request, len(self.pieces))
        measures = None if self.measures is None else tf.split(self.measures, counts, num=len(self.pieces))
        return local, tf.split(self.rows, counts, num=len(self.pieces)), measures


@dataclasses.dataclass(frozen=True, eq=False)
class MergedGradient:
    """The gradient of one table, in parts that stay on its servers. Optimizers use it like an IndexedSlices.

    Clipping is recorded here and applied by the update, so that no server computes rows twice (see `apply_clipping`).

    Args:
        table: the table.
        parts: for each part, the merged rows of a server and the index of the piece in them.
        factor: multiplies every row; None for 1.
        limit: bounds the absolute value of every element, before the factor; None for no bound.
    """

    table: RoutedRows
    parts: tuple[tuple[ServerRows, int], ...]
    factor: tf.Tensor | None = None
    limit: float | None = None

    def square_sum(self) -> tf.Tensor:
        """Returns the sum of the squares of all elements, a scalar; of all places if the workers sent squares."""
        # Each server sums its own part, and only the scalars cross.
        sums = []
        for merged, piece in self.parts:
            _, rows, measures = merged.split
            with tf.device(merged.rows.device):
                if measures is None or merged.measure != "square":
                    sums.append(tf.reduce_sum(tf.square(rows[piece])))
                else:
                    sums.append(tf.reduce_sum(measures[piece]))
        total = tf.add_n(sums)
        return total if self.factor is None else total * tf.square(self.factor)

    def with_factor(self, factor: tf.Tensor) -> "MergedGradient":
        """Returns this gradient with every row multiplied by `factor`."""
        return dataclasses.replace(self, factor=factor if self.factor is None else self.factor * factor)

    def with_limit(self, limit: float) -> "MergedGradient":
        """Returns this gradient with every element clipped to [-limit, limit]."""
        return dataclasses.replace(self, limit=limit)

    def apply_clipping(self, rows: tf.Tensor) -> tf.Tensor:
        """Applies the limit and then the factor to the rows of one part, [m, dim]."""
        rows = rows if self.limit is None else tf.clip_by_value(rows, -self.limit, self.limit)
        return rows if self.factor is None else rows * self.factor

    def scale_measures(self, measures: tf.Tensor, measure: Measure | None) -> tf.Tensor:
        """Applies the factor to the measures of one part, [m, dim]. Gradients with measures have no limit."""
        return measures if self.factor is None else measures * measure_of(measure, self.factor)


def merge(
    pieces: Sequence[tuple[RoutedRows, int]],
    messages: Sequence[tf.Tensor],
    total: tf.Tensor,
    measure: Measure | None = None,
) -> ServerRows:
    """Merges the messages that workers left on one server. The caller makes that server the current device.

    Args:
        pieces: the (table, shard) of each piece; all tables are of one kind.
        messages: the message of each worker, from `RoutedGradients.message` with the examples of its batch as factor.
        total: the number of examples of all workers, a scalar.
        measure: the measure that messages have of ids that repeat; None for none. Measures are added up over the
            workers, because an id that two workers have repeats in the joined batch.
    """
    # local[p], rows[p] and measures[p] have one tensor for each worker.
    dim = pieces[0][0].dim
    local: list[list[tf.Tensor]] = [[] for _ in pieces]
    rows: list[list[tf.Tensor]] = [[] for _ in pieces]
    measures: list[list[tf.Tensor]] = [[] for _ in pieces]
    for message in messages:
        for piece, parts in enumerate(_split_message(message, len(pieces), dim, measure)):
            for parts_of, part in zip((local, rows, measures), parts, strict=True):
                parts_of[piece].append(part)
    # Two workers may have gradients for the same row. The op that deduplicates ids also deduplicates local rows.
    routed = route_unique(_as_tables(pieces), [tf.concat(ids, 0) for ids in local])

    def mean(parts: list[list[tf.Tensor]], divisor: tf.Tensor) -> tf.Tensor:
        summed = segment_sum_rows([tf.concat(r, 0) for r in parts], routed.inverse, tf.size(routed.unique_ids))
        # Without any examples the gradients are 0. Keras also updates by zeros after an empty batch.
        return tf.math.divide_no_nan(summed, divisor)

    mean_measures = None if measure is None else mean(measures, measure_of(measure, total))
    return ServerRows(tuple(pieces), routed.requests[0], mean(rows, total), mean_measures, measure)


def apply_merged(updates: Sequence[RowUpdate]) -> list[tf.Operation]:
    """Applies updates whose gradients are `MergedGradient`s, and returns the operations."""
    # The parts of several tables share one `ServerRows`, so there is one entry for each server and kind of table.
    servers = {id(merged): merged for update in updates for merged, _ in update.gradient.parts}
    operations = []
    for merged in servers.values():
        # One op updates all pieces that share the rule and the hyperparameters.
        groups: dict[tuple[str, int, Measure | None], list[tuple[RowUpdate, int]]] = {}
        for update in updates:
            for part, piece in update.gradient.parts:
                if part is merged:
                    groups.setdefault((update.rule.name, id(update.hyper), update.measure), []).append((update, piece))
        operations += [_apply(merged, sorted(chosen, key=lambda one: one[1])) for chosen in groups.values()]
    return operations


def _apply(merged: ServerRows, chosen: list[tuple[RowUpdate, int]]) -> tf.Operation:
    """Updates some pieces of one server by one operation."""
    first = chosen[0][0]
    stores = [update.stores(merged.pieces[piece][1]) for update, piece in chosen]
    with tf.device(merged.rows.device):
        # Without clipping, and with one optimizer for all pieces, the merged tensors are the update as they are.
        plain = all(update.gradient.factor is None and update.gradient.limit is None for update, _ in chosen)
        if plain and len(chosen) == len(merged.pieces):
            request, rows, measures = merged.request, merged.rows, merged.measures
        else:
            local, split, of_pieces = merged.split
            sizes = tf.stack([tf.size(local[piece], tf.int64) for _, piece in chosen])
            request = tf.concat([sizes, *(local[piece] for _, piece in chosen)], 0)
            rows = tf.concat([update.gradient.apply_clipping(split[piece]) for update, piece in chosen], 0)
            measures = None
            if of_pieces is not None:
                scaled = [update.gradient.scale_measures(of_pieces[piece], merged.measure) for update, piece in chosen]
                measures = tf.concat(scaled, 0)
        # Measures that were sent only for a norm are not for the rule.
        if measures is not None and first.measure is None:
            measures = None
        if measures is not None:
            # Nothing crosses here, so every row brings its measures, whether its id repeats or not.
            request = tf.concat([request[: len(chosen)], request[len(chosen) :] + REPEATS], 0)
        return type(stores[0][0]).apply(first.rule, stores, pack_update(first.hyper, request, rows, measures))


def _split_message(
    message: tf.Tensor, pieces: int, dim: int, measure: Measure | None
) -> list[tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]]:
    """Returns the local rows of each piece that a worker has gradients for, these gradients and their measures."""
    # The message has no hyperparameters. They are the same for all workers and come with the update.
    update = unpack_update(message, 0, pieces, dim, measure)
    counts, local = split_request(update.request, pieces)
    return list(
        zip(local, tf.split(update.gradients, counts, num=pieces), split_measures(update, counts, pieces), strict=True)
    )


def _as_tables(pieces: Sequence[tuple[RoutedRows, int]]) -> RouteMap:
    """Describes the pieces as tables of a single server whose ids are the local rows."""
    tables = tuple(
        TableRoute(f"{table.name}/{shard}", Routing(_local_kind(table), table.stores[shard].rows, 1), (0,))
        for table, shard in pieces
    )
    return RouteMap(tables, 1)


def _local_kind(table: RoutedRows) -> Literal["div", "key"]:
    """Returns the routing kind of the local rows of a shard: row numbers, or the ids of a table that grows."""
    return "key" if table.routing.takes_any_id else "div"
