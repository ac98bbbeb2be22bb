"""Row gradients of several workers, merged beside their rows: the mean for each row, and one update of it.

Each worker leaves with each server what it would have pushed there. The server sums it per row, divides by the number
of examples, and applies the optimizer once. No row and no gradient crosses between servers; for clipping by norm,
scalars do.
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
    """What one server has merged for its pieces of tables of one kind.

    Args:
        pieces: (table, shard) each.
        request: the rows that have a gradient, as `route_unique` makes requests.
        rows: their gradients, [m, dim], on the server.
    """

    pieces: tuple[tuple[RoutedRows, int], ...]
    request: tf.Tensor
    rows: tf.Tensor

    @functools.cached_property
    def split(self) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """For each piece its local rows, int64 [m_p], and their gradients, [m_p, dim]."""
        counts, local = split_request(self.request, len(self.pieces))
        return local, tf.split(self.rows, counts, num=len(self.pieces))


@dataclasses.dataclass(frozen=True, eq=False)
class MergedGradient:
    """The gradient of one table, in parts that lie on its servers; an optimizer takes it for an IndexedSlices.

    Limit and factor wait until the update, so that nothing is computed twice: `apply_clipping` applies them.

    Args:
        table: the table.
        parts: (what a server merged, which of its pieces) each.
        factor: multiplies every row; None for 1.
        limit: bounds the size of every element, before the factor; None where there is none.
    """

    table: RoutedRows
    parts: tuple[tuple[ServerRows, int], ...]
    factor: tf.Tensor | None = None
    limit: float | None = None

    def square_sum(self) -> tf.Tensor:
        """Sum of the squares of all elements, a scalar; each server adds up its own."""
        sums = []
        for merged, piece in self.parts:
            with tf.device(merged.rows.device):
                sums.append(tf.reduce_sum(tf.square(merged.split[1][piece])))
        return tf.add_n(sums)

    def with_factor(self, factor: tf.Tensor) -> "MergedGradient":
        """This one with every row multiplied."""
        return dataclasses.replace(self, factor=factor if self.factor is None else self.factor * factor)

    def with_limit(self, limit: float) -> "MergedGradient":
        """This one with every element between -limit and limit."""
        return dataclasses.replace(self, limit=limit)

    def apply_clipping(self, rows: tf.Tensor) -> tf.Tensor:
        """Rows of one part with the limit and the factor applied."""
        rows = rows if self.limit is None else tf.clip_by_value(rows, -self.limit, self.limit)
        return rows if self.factor is None else rows * self.factor


def merge(pieces: Sequence[tuple[RoutedRows, int]], messages: Sequence[tf.Tensor], total: tf.Tensor) -> ServerRows:
    """Merges what workers left with one server; to be called with that server as the device.

    Args:
        pieces: (table, shard) each, of one kind.
        messages: from `RoutedGradients.message`, with the examples of the worker's batch as the factor.
        total: examples of all workers, a scalar.
    """
    # local[p] and rows[p] have a tensor for each worker that left rows of piece p.
    dim = pieces[0][0].dim
    local: list[list[tf.Tensor]] = [[] for _ in pieces]
    rows: list[list[tf.Tensor]] = [[] for _ in pieces]
    for message in messages:
        for piece, (wanted, gradients) in enumerate(zip(*_split_message(message, len(pieces), dim), strict=True)):
            local[piece].append(wanted)
            rows[piece].append(gradients)
    # The op that makes ids unique and sorts them by table serves here for local rows.
    routed = route_unique(_as_tables(pieces), [tf.concat(ids, 0) for ids in local])
    summed = segment_sum_rows([tf.concat(r, 0) for r in rows], routed.inverse, tf.size(routed.unique_ids))
    # No examples at all: every gradient is 0, as Keras, too, updates by zeros after an empty batch.
    return ServerRows(tuple(pieces), routed.requests[0], tf.math.divide_no_nan(summed, total))


def apply_merged(updates: Sequence[RowUpdate]) -> list[tf.Operation]:
    """Applies updates whose gradients are `MergedGradient`s; returns the operations."""
    servers = {id(merged): merged for update in updates for merged, _ in update.gradient.parts}
    operations = []
    for merged in servers.values():
        # One op can update the pieces that have rule and hyperparameters in common.
        groups: dict[tuple[str, int], list[tuple[RowUpdate, int]]] = {}
        for update in updates:
            for part, piece in update.gradient.parts:
                if part is merged:
                    groups.setdefault((update.rule.name, id(update.hyper)), []).append((update, piece))
        operations += [_apply(merged, sorted(chosen, key=lambda one: one[1])) for chosen in groups.values()]
    return operations


def _apply(merged: ServerRows, chosen: list[tuple[RowUpdate, int]]) -> tf.Operation:
    """One update of some pieces of a server."""
    first = chosen[0][0]
    stores = [update.stores(merged.pieces[piece][1]) for update, piece in chosen]
    with tf.device(merged.rows.device):
        # Without clipping, and with one optimizer for all pieces, what was merged is applied as it is.
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
    """For each piece the local rows that a worker has gradients for, and these."""
    # Such a message has no hyperparameters: they come with the update, and are the same for all workers.
    _, request, gradients = unpack_update(message, 0, pieces, dim)
    counts, local = split_request(request, pieces)
    return local, tf.split(gradients, counts, num=pieces)


def _as_tables(pieces: Sequence[tuple[RoutedRows, int]]) -> RouteMap:
    """The pieces as tables of one server whose ids are the local rows."""
    tables = tuple(
        TableRoute(f"{table.name}/{shard}", Routing("div", table.stores[shard].rows, 1), (0,))
        for table, shard in pieces
    )
    return RouteMap(tables, 1)
