"""Merges the row gradients of all workers on the server that holds the rows: each row gets one update by the mean.

Each worker leaves on each server the message that it would have pushed there. The server sums the gradients of each
row, divides by the number of examples, and applies the optimizer once. Rows and gradients never cross between servers.
Clipping by norm sends scalars between them.
"""

import dataclasses
import functools
from collections.abc import Sequence

import tensorflow as tf

from tfps.embedding.push import RowUpdate
from tfps.embedding.routed_rows import RoutedRows
from tfps.ops.apply_rows import pack_update, unpack_update
from tfps.ops.route_unique import route_unique
from tfps.ops.routes import RouteMap, TableRoute
from tfps.ops.row_request import split_request
from tfps.ops.segment_sum_rows import segment_sum_rows
from tfps.placement.routing import Routing


@dataclasses.dataclass(frozen=True, eq=False)
class ServerRows:
    """The merged gradients of one server, for its pieces of tables of one kind.

    Args:
        pieces: the (table, shard) of each piece.
        request: the local rows that have a gradient, in the form of a request of `route_unique`.
        rows: their gradients, [m, dim], on the server.
    """

    pieces: tuple[tuple[RoutedRows, int], ...]
    request: tf.Tensor
    rows: tf.Tensor

    @functools.cached_property
    def split(self) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """The local rows of each piece, int64 [m_p], and their gradients, [m_p, dim]."""
        # Cached, because every table on the server that needs clipping would add these ops to the graph again.
        counts, local = split_request(self.request, len(self.pieces))
        return local, tf.split(self.rows, counts, num=len(self.pieces))


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
        """Returns the sum of the squares of all elements, a scalar."""
        # Each server sums its own part, and only the scalars cross.
        sums = []
        for merged, piece in self.parts:
            with tf.device(merged.rows.device):
                sums.append(tf.reduce_sum(tf.square(merged.split[1][piece])))
        return tf.add_n(sums)

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


def merge(pieces: Sequence[tuple[RoutedRows, int]], messages: Sequence[tf.Tensor], total: tf.Tensor) -> ServerRows:
    """Merges the messages that workers left on one server. The caller makes that server the current device.

    Args:
        pieces: the (table, shard) of each piece; all tables are of one kind.
        messages: the message of each worker, from `RoutedGradients.message` with the examples of its batch as factor.
        total: the number of examples of all workers, a scalar.
    """
    # local[p] and rows[p] have one tensor for each worker.
    dim = pieces[0][0].dim
    local: list[list[tf.Tensor]] = [[] for _ in pieces]
    rows: list[list[tf.Tensor]] = [[] for _ in pieces]
    for message in messages:
        for piece, (wanted, gradients) in enumerate(zip(*_split_message(message, len(pieces), dim), strict=True)):
            local[piece].append(wanted)
            rows[piece].append(gradients)
    # Two workers may have gradients for the same row. The op that deduplicates ids also deduplicates local rows.
    routed = route_unique(_as_tables(pieces), [tf.concat(ids, 0) for ids in local])
    summed = segment_sum_rows([tf.concat(r, 0) for r in rows], routed.inverse, tf.size(routed.unique_ids))
    # Without any examples the gradients are 0. Keras also updates by zeros after an empty batch.
    return ServerRows(tuple(pieces), routed.requests[0], tf.math.divide_no_nan(summed, total))


def apply_merged(updates: Sequence[RowUpdate]) -> list[tf.Operation]:
    """Applies updates whose gradients are `MergedGradient`s, and returns the operations."""
    # The parts of several tables share one `ServerRows`, so there is one entry for each server and kind of table.
    servers = {id(merged): merged for update in updates for merged, _ in update.gradient.parts}
    operations = []
    for merged in servers.values():
        # One op updates all pieces that share the rule and the hyperparameters.
        groups: dict[tuple[str, int], list[tuple[RowUpdate, int]]] = {}
        for update in updates:
            for part, piece in update.gradient.parts:
                if part is merged:
                    groups.setdefault((update.rule.name, id(update.hyper)), []).append((update, piece))
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
            request, rows = merged.request, merged.rows
        else:
            local, split = merged.split
            sizes = tf.stack([tf.size(local[piece], tf.int64) for _, piece in chosen])
            request = tf.concat([sizes, *(local[piece] for _, piece in chosen)], 0)
            rows = tf.concat([update.gradient.apply_clipping(split[piece]) for update, piece in chosen], 0)
        return type(stores[0][0]).apply(first.rule, stores, pack_update(first.hyper, request, rows))


def _split_message(message: tf.Tensor, pieces: int, dim: int) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Returns the local rows of each piece that a worker has gradients for, and these gradients."""
    # The message has no hyperparameters. They are the same for all workers and come with the update.
    _, request, gradients = unpack_update(message, 0, pieces, dim)
    counts, local = split_request(request, pieces)
    return local, tf.split(gradients, counts, num=pieces)


def _as_tables(pieces: Sequence[tuple[RoutedRows, int]]) -> RouteMap:
    """Describes the pieces as tables of a single server whose ids are the local rows."""
    tables = tuple(
        TableRoute(f"{table.name}/{shard}", Routing("div", table.stores[shard].rows, 1), (0,))
        for table, shard in pieces
    )
    return RouteMap(tables, 1)
