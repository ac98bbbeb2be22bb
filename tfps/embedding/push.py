"""The way back: gradients of the rows a step asked for go to the servers, one message each, and are applied there."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfps.embedding.lookup import (
    Group,
    TableGradient,
    concat_with_sizes,
    in_answer_order,
    routes_of,
    send_as_one,
    split_by_sizes,
)
from tfps.embedding.push_dedup import PUSH_ID_LANES, PushId
from tfps.ops.apply_rows import apply_rows, pack_update
from tfps.ops.route_unique import route_unique
from tfps.ops.routes import RouteMap
from tfps.ops.row_rules import ROW_RULES, RowRule
from tfps.ops.segment_sum_rows import segment_sum_rows


@dataclasses.dataclass(frozen=True, eq=False)
class RowUpdate:
    """What one step wants done to one table.

    Args:
        table: the table.
        slots: its slot tables, in the order of the rule.
        gradient: `tf.IndexedSlices` for the table; ids may repeat.
        rule: the optimizer's row-wise form.
        hyper: hyperparameters in the order of the rule and last the decay, float32 [h + 1].
    """

    table: Any
    slots: list[Any]
    gradient: Any
    rule: RowRule
    hyper: Any


def push(updates: Sequence[RowUpdate], known: Sequence[TableGradient], push_id: PushId | None = None) -> list[Any]:
    """Applies updates beside their rows.

    Args:
        updates: at most one a table.
        known: what the lookups of this step gave as gradients. Where the optimizer changed none of them (did not clip,
            say) they are pushed as they are; others are summed and routed again.
        push_id: a server that has applied it ignores the push.

    Returns:
        The operations, one a server and width; what they need crosses as one message a server.
    """
    groups: dict[Any, list[RowUpdate]] = {}
    for update in updates:
        groups.setdefault((update.table.dim, update.table.dtype, update.rule.name, id(update.hyper)), []).append(update)
    return _sent([order for group in groups.values() for order in _orders(group, known)], push_id)


def add(deltas: Sequence[tuple[Any, Any, Any, Any]], push_id: PushId | None = None) -> list[Any]:
    """Adds to rows, beside them.

    Args:
        deltas: (table, ids [m], float32 [m, dim], the part that is kept of what the rows were, None for all of it); a
            table once, and in it each id.
        push_id: a server that has applied it ignores the push.

    Returns:
        The operations, as `push`.
    """
    hyper = _adding([kept for *_, kept in deltas])
    updates = [
        RowUpdate(table, [], tf.IndexedSlices(delta, ids), ROW_RULES["sgd"], hyper[id(kept)])
        for table, ids, delta, kept in deltas
    ]
    return push(updates, [], push_id)


def add_to(deltas: Sequence[tuple[Group, Any, Any]], push_id: PushId | None = None) -> list[Any]:
    """Adds to the rows of groups, by the requests that brought them.

    Args:
        deltas: (group, float32 [M, dim] in the order of its answer, the part that is kept as for `add`) each.
        push_id: a server that has applied it ignores the push.

    Returns:
        The operations, as `push`.
    """
    hyper, orders = _adding([kept for *_, kept in deltas]), []
    for group, delta, kept in deltas:
        updates = [RowUpdate(table, [], None, ROW_RULES["sgd"], hyper[id(kept)]) for table in group.tables]
        servers = group.routes.num_servers
        blocks = tf.split(delta, group.routed.answer_rows(), num=servers) if servers > 1 else [delta]
        orders += _of(updates, RoutedGradients(group.tables, group.routes, group.routed.requests, tuple(blocks)))
    return _sent(orders, push_id)


def _adding(kept: Sequence[Any]) -> dict[int, Any]:
    """Gradient descent at rate -1 adds the gradient, to the bit, and before that decays what is not kept.

    Args:
        kept: the part that is kept, or None for all of it.

    Returns:
        Hyperparameters by the identity of the part.
    """
    return {id(part): tf.stack([-1.0, 0.0 if part is None else 1.0 - part]) for part in kept}


@dataclasses.dataclass(frozen=True, eq=False)
class _Order:
    """What one server is to do to its shards of some tables of one width.

    Args:
        server: its number.
        rule: the optimizer.
        variables: for each shard the variable and its slots.
        message: of `pack_update`.
    """

    server: int
    rule: RowRule
    variables: list[list[Any]]
    message: Any


@dataclasses.dataclass(frozen=True, eq=False)
class RoutedGradients:
    """Gradients of tables of one width, summed and sorted out by server.

    Args:
        tables: each once, in the order in which the pieces count them.
        routes: where their shards are.
        requests: for each server the rows that have a gradient, as `route_unique` makes them.
        blocks: for each server their gradients, [m, dim].
    """

    tables: tuple[Any, ...]
    routes: RouteMap
    requests: tuple[Any, ...]
    blocks: tuple[Any, ...]

    def message(self, server: int, factor: Any) -> Any:
        """What one server is left with: the rows and `factor` times their gradients, float32; 0 times NaN is 0."""
        block = tf.math.multiply_no_nan(self.blocks[server], factor)
        return pack_update(tf.zeros([0]), self.requests[server], block)


def routed(tables: Sequence[Any], gradients: Sequence[Any], known: Sequence[TableGradient]) -> RoutedGradients:
    """What each server is to be told.

    Args:
        tables: of one width and dtype, each once.
        gradients: a `tf.IndexedSlices` a table; ids may repeat.
        known: what the lookups of this step gave as gradients, as for `push`.
    """
    unchanged = _unchanged(gradients, known)
    if unchanged:
        group = unchanged[0].group
        tables, routes, ids = group.tables, group.routes, group.routed
        summed = in_answer_order(unchanged)
    else:
        routes = routes_of(tables)
        ids = route_unique(routes, [gradient.indices for gradient in gradients])
        summed = segment_sum_rows([gradient.values for gradient in gradients], ids.inverse, tf.size(ids.unique_ids))
    blocks = tf.split(summed, ids.answer_rows(), num=routes.num_servers) if routes.num_servers > 1 else [summed]
    return RoutedGradients(tuple(tables), routes, ids.requests, tuple(blocks))


def _orders(updates: list[RowUpdate], known: Sequence[TableGradient]) -> list[_Order]:
    """One a server, for tables of one width and rule."""
    return _of(updates, routed([update.table for update in updates], [update.gradient for update in updates], known))


def _of(updates: Sequence[RowUpdate], told: RoutedGradients) -> list[_Order]:
    """One a server, for gradients that are sorted out."""
    by_table = {id(update.table): update for update in updates}
    orders = []
    for server, pieces in enumerate(told.routes.pieces):
        if pieces:
            variables = [_variables(by_table[id(told.tables[table])], shard) for table, shard in pieces]
            message = pack_update(updates[0].hyper, told.requests[server], told.blocks[server])
            orders.append(_Order(server, updates[0].rule, variables, message))
    return orders


def _variables(update: RowUpdate, shard: int) -> list[Any]:
    return [table.shards[shard] for table in (update.table, *update.slots)]


def _unchanged(gradients: Sequence[Any], known: Sequence[TableGradient]) -> list[TableGradient]:
    """Where they come from, in the order of the tables of a group: all of these, each looked up once, nothing changed.

    Empty where that is not so.
    """
    given = {id(gradient.values): gradient for gradient in known}
    sources = [given.get(id(gradient.values)) for gradient in gradients]
    group = sources[0].group if sources[0] is not None else None
    by_table = {id(source.table): source for source in sources if source is not None and source.group is group}
    if group is None or len(by_table) != len(gradients) or len(gradients) != len(group.tables):
        return []
    return [by_table[id(table)] for table in group.tables]


def _sent(orders: Sequence[_Order], push_id: PushId | None) -> list[Any]:
    """The operations of all orders, as one message a server."""
    servers = list(dict.fromkeys(order.server for order in orders))
    return [
        operation
        for server in servers
        for operation in _send([order for order in orders if order.server == server], push_id)
    ]


def _send(orders: Sequence[_Order], push_id: PushId | None) -> list[Any]:
    """Orders of one server, as one message."""
    device = orders[0].variables[0][0].device

    def apply(messages: Sequence[Any]) -> list[Any]:
        return [
            apply_rows(order.rule, order.variables, message) for order, message in zip(orders, messages, strict=True)
        ]

    messages = [order.message for order in orders]
    if push_id is None:
        return apply(send_as_one(messages, device) if len(orders) > 1 else messages)
    whole = tf.concat([messages[0] if len(messages) == 1 else concat_with_sizes(messages), push_id.lanes()], 0)
    with tf.device(device):
        arrived = tf.identity(whole)
        body = arrived[:-PUSH_ID_LANES]  # unlike a split, a slice from the beginning is not copied
        return [
            push_id.ledger.apply_if_new(
                arrived[-PUSH_ID_LANES:],
                lambda: apply(split_by_sizes(body, len(messages)) if len(messages) > 1 else [body]),
            )
        ]
