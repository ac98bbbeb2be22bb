"""The way back: gradients of the rows a step asked for go to the servers, one message each, and are applied there."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfps.embedding.lookup_group import LookupGroup
from tfps.embedding.messages import concat_with_sizes, send_as_one, split_by_sizes
from tfps.embedding.push_dedup import PUSH_ID_LANES, PushId
from tfps.embedding.routed_gradients import RoutedGradients, route_gradients
from tfps.embedding.routed_rows import RoutedRows
from tfps.embedding.row_store import RowStore
from tfps.embedding.table_gradient import TableGradient
from tfps.ops.apply_rows import pack_update
from tfps.ops.row_rules import ROW_RULES, RowRule


@dataclasses.dataclass(frozen=True, eq=False)
class RowUpdate:
    """What one step does to one table.

    Args:
        table: the table.
        slots: its slot tables, in the order of the rule.
        gradient: `tf.IndexedSlices` for the table, whose ids may repeat, or a `MergedGradient`.
        rule: the optimizer's row-wise form.
        hyper: hyperparameters in the order of the rule and last the decay, float32 [h + 1].
    """

    table: RoutedRows
    slots: Sequence[RoutedRows]
    gradient: tf.IndexedSlices
    rule: RowRule
    hyper: tf.Tensor

    def stores(self, shard: int) -> list[RowStore]:
        """The stores of one shard: the rows, then the slots."""
        return [table.stores[shard] for table in (self.table, *self.slots)]


def push(
    updates: Sequence[RowUpdate], known: Sequence[TableGradient], push_id: PushId | None = None
) -> list[tf.Operation]:
    """Applies updates beside their rows.

    Args:
        updates: at most one a table.
        known: what the lookups of this step gave as gradients. Where the optimizer changed none of them (did not clip,
            say) they are pushed as they are; others are summed and routed again.
        push_id: a server that has applied it ignores the push.

    Returns:
        The operations, one a server and kind of table; what they need crosses as one message a server.
    """
    # One op can update tables that have kind, rule and hyperparameters in common.
    groups: dict[tuple[object, ...], list[RowUpdate]] = {}
    for update in updates:
        groups.setdefault((update.table.kind, update.rule.name, id(update.hyper)), []).append(update)
    orders = []
    for group in groups.values():
        gradients = route_gradients([update.table for update in group], [update.gradient for update in group], known)
        orders += _make_orders(group, gradients)
    return _send_all(orders, push_id)


def add(
    deltas: Sequence[tuple[RoutedRows, tf.Tensor, tf.Tensor, tf.Tensor | None]], push_id: PushId | None = None
) -> list[tf.Operation]:
    """Adds to rows, beside them.

    Args:
        deltas: (table, ids [m], float32 [m, dim], keep) each; a table once, and in it each id. `keep` is the fraction
            of the old row that stays, None for all of it.
        push_id: a server that has applied it ignores the push.

    Returns:
        The operations, as `push`.
    """
    hyper = _make_add_hyper([keep for *_, keep in deltas])
    updates = [
        RowUpdate(table, [], tf.IndexedSlices(delta, ids), ROW_RULES["sgd"], hyper[id(keep)])
        for table, ids, delta, keep in deltas
    ]
    return push(updates, [], push_id)


def add_to_groups(
    deltas: Sequence[tuple[LookupGroup, tf.Tensor, tf.Tensor | None]], push_id: PushId | None = None
) -> list[tf.Operation]:
    """Adds to the rows of lookup groups, by the requests that brought them: nothing is sorted again.

    Args:
        deltas: (group, float32 [M, dim] in the order of its answer, keep as for `add`) each.
        push_id: a server that has applied it ignores the push.

    Returns:
        The operations, as `push`.
    """
    hyper, orders = _make_add_hyper([keep for *_, keep in deltas]), []
    for group, delta, keep in deltas:
        # The gradients are routed already, so the updates carry none.
        updates = [RowUpdate(table, [], None, ROW_RULES["sgd"], hyper[id(keep)]) for table in group.tables]
        orders += _make_orders(updates, RoutedGradients.from_group(group, delta))
    return _send_all(orders, push_id)


def _make_add_hyper(keeps: Sequence[tf.Tensor | None]) -> dict[int, tf.Tensor]:
    """Hyperparameters by the identity of `keep`, one tensor for all that are alike.

    Gradient descent at rate -1 adds the gradient, to the bit, and before that decays what is not kept: with keep 0.9
    they are [-1, 0.1].
    """
    return {id(keep): tf.stack([-1.0, 0.0 if keep is None else 1.0 - keep]) for keep in keeps}


@dataclasses.dataclass(frozen=True, eq=False)
class _Order:
    """What one server is to do to its shards of some tables of one kind.

    Args:
        server: its number.
        rule: the optimizer.
        stores: for each shard the store of the rows and those of the slots.
        message: of `pack_update`.
    """

    server: int
    rule: RowRule
    stores: list[list[RowStore]]
    message: tf.Tensor

    def apply(self, message: tf.Tensor) -> tf.Operation:
        """Applies the message, which has arrived on the server."""
        return type(self.stores[0][0]).apply(self.rule, self.stores, message)


def _make_orders(updates: Sequence[RowUpdate], gradients: RoutedGradients) -> list[_Order]:
    """One order a server for updates of tables of one kind, rule and hyperparameters."""
    # The gradients of a group list the tables in the order of its lookups, the optimizer has its own.
    by_table = {id(update.table): update for update in updates}
    orders = []
    for server, pieces in enumerate(gradients.routes.pieces):
        if pieces:
            stores = [by_table[id(gradients.tables[table])].stores(shard) for table, shard in pieces]
            message = pack_update(updates[0].hyper, gradients.requests[server], gradients.blocks[server])
            orders.append(_Order(server, updates[0].rule, stores, message))
    return orders


def _send_all(orders: Sequence[_Order], push_id: PushId | None) -> list[tf.Operation]:
    """The operations of all orders, whose messages go to each server as one."""
    # In the order in which they come first, which is the same whenever the step is traced.
    servers = list(dict.fromkeys(order.server for order in orders))
    return [
        operation
        for server in servers
        for operation in _send([order for order in orders if order.server == server], push_id)
    ]


def _send(orders: Sequence[_Order], push_id: PushId | None) -> list[tf.Operation]:
    """Orders of one server, as one message."""
    # All stores of the orders are on this server.
    device = orders[0].stores[0][0].device

    def apply(messages: Sequence[tf.Tensor]) -> list[tf.Operation]:
        return [order.apply(message) for order, message in zip(orders, messages, strict=True)]

    messages = [order.message for order in orders]
    if push_id is None:
        return apply(send_as_one(messages, device) if len(orders) > 1 else messages)
    whole = tf.concat([messages[0] if len(messages) == 1 else concat_with_sizes(messages), push_id.lanes()], 0)
    with tf.device(device):
        # One tensor crosses: this copy. All slices of it are taken on the server.
        arrived = tf.identity(whole)
        # The id is at the end, because a slice from the beginning is not copied; a split would be.
        body = arrived[:-PUSH_ID_LANES]
        return [
            push_id.ledger.apply_if_new(
                arrived[-PUSH_ID_LANES:],
                lambda: apply(split_by_sizes(body, len(messages)) if len(messages) > 1 else [body]),
            )
        ]
