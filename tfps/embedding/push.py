"""Pushes row gradients and deltas: one message to each server, which applies it to its rows."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfps.embedding import wire
from tfps.embedding.coded_update import UpdateCodec
from tfps.embedding.lookup_group import LookupGroup
from tfps.embedding.messages import concat_with_sizes, send_as_one, split_by_sizes
from tfps.embedding.push_dedup import PUSH_ID_LANES, PushId
from tfps.embedding.routed_gradients import RoutedGradients, route_gradients
from tfps.embedding.routed_rows import RoutedRows
from tfps.embedding.row_store import RowStore
from tfps.embedding.table_gradient import Summed, TableGradient
from tfps.ops.row_rules import ROW_RULES, RowRule
from tfps.ops.rules.declaration import Measure
from tfps.stages import PUSH, in_stage


@dataclasses.dataclass(frozen=True, eq=False)
class RowUpdate:
    """The update of one table by one step.

    Args:
        table: the table.
        slots: the slot tables of the table, in the order of the rule.
        gradient: the gradient of the table: `tf.IndexedSlices`, whose ids may repeat, or a `MergedGradient`.
        rule: the optimizer in its row-wise form.
        hyper: the hyperparameters in the order of the rule, and then the weight decay, float32 [h + 1].
        measure: what is summed beside the gradients of an id that repeats, and sent only for these; None for nothing.
    """

    table: RoutedRows
    slots: Sequence[RoutedRows]
    gradient: tf.IndexedSlices
    rule: RowRule
    hyper: tf.Tensor
    measure: Measure | None = None

    def stores(self, shard: int) -> list[RowStore]:
        """Returns the stores of one shard: the store of the rows, then the store of each slot."""
        return [table.stores[shard] for table in (self.table, *self.slots)]


@in_stage(PUSH)
def push(
    updates: Sequence[RowUpdate], known: Sequence[TableGradient], push_id: PushId | None = None
) -> list[tf.Operation]:
    """Sends updates to the servers, which apply them to their rows.

    Args:
        updates: the updates, at most one for each table.
        known: the gradients from the lookups of this step. An update whose gradient is one of them is routed already,
            and the push uses that. If the optimizer made new gradients (by clipping, say), they are routed again.
        push_id: the id of the push; a server that has already applied it drops the push. None for no such check.

    Returns:
        The operations, one for each server and kind of table. One message to each server carries all their inputs.
    """
    # One op updates all tables that share the kind, the rule and the hyperparameters.
    groups: dict[tuple[object, ...], list[RowUpdate]] = {}
    for update in updates:
        kind = (update.table.kind, wire.codec_of(update.table))
        groups.setdefault((kind, update.rule.name, id(update.hyper), update.measure), []).append(update)
    orders = []
    for group in groups.values():
        tables, gradients = [update.table for update in group], [update.gradient for update in group]
        orders += _make_orders(group, route_gradients(tables, gradients, known, group[0].measure))
    return _send_all(orders, push_id)


def add(
    deltas: Sequence[tuple[RoutedRows, tf.Tensor, tf.Tensor, tf.Tensor | None]], push_id: PushId | None = None
) -> list[tf.Operation]:
    """Adds deltas to rows on their servers.

    Args:
        deltas: for each table, (table, ids [m], deltas float32 [m, dim], keep). Each table and each id comes once.
            `keep` is the fraction of the old row that stays; None for all of it.
        push_id: as for `push`.

    Returns:
        The operations, as for `push`.
    """
    hyper = _make_add_hyper([keep for *_, keep in deltas])
    updates = [
        RowUpdate(table, [], tf.IndexedSlices(delta, ids), ROW_RULES["sgd"], hyper[id(keep)])
        for table, ids, delta, keep in deltas
    ]
    return push(updates, [], push_id)


@in_stage(PUSH)
def add_to_groups(
    deltas: Sequence[tuple[LookupGroup, tf.Tensor, tf.Tensor | None]], push_id: PushId | None = None
) -> list[tf.Operation]:
    """Adds deltas to the rows of lookup groups. The requests that pulled the rows serve again, so nothing is sorted.

    Args:
        deltas: for each group, (group, deltas float32 [M, dim] in the order of its answer, keep as for `add`).
        push_id: as for `push`.

    Returns:
        The operations, as for `push`.
    """
    hyper, orders = _make_add_hyper([keep for *_, keep in deltas]), []
    for group, delta, keep in deltas:
        # `RoutedGradients` has the routed deltas, so the updates need no gradient.
        updates = [RowUpdate(table, [], None, ROW_RULES["sgd"], hyper[id(keep)]) for table in group.tables]
        orders += _make_orders(updates, RoutedGradients.from_group(group, Summed(delta)))
    return _send_all(orders, push_id)


def _make_add_hyper(keeps: Sequence[tf.Tensor | None]) -> dict[int, tf.Tensor]:
    """Returns the hyperparameters that make gradient descent add deltas, by the identity of `keep`.

    Gradient descent with learning rate -1 adds the gradient exactly. The weight decay, which comes first, removes the
    part of the row that is not kept. Example: keep 0.9 gives [-1, 0.1].
    """
    # Keyed by identity, so that tables with the same `keep` share one tensor. `push` groups tables by that tensor.
    return {id(keep): tf.stack([-1.0, 0.0 if keep is None else 1.0 - keep]) for keep in keeps}


@dataclasses.dataclass(frozen=True, eq=False)
class _Order:
    """One update that a server must make to its shards of some tables of one kind.

    Args:
        server: the number of the server.
        rule: the optimizer.
        stores: for each shard, the store of the rows and then the store of each slot.
        message: the message from `tfps.ops.apply_rows.pack_update`, or a coded one.
        codec: the codec of the message; None if it is not coded.
    """

    server: int
    rule: RowRule
    stores: list[list[RowStore]]
    message: tf.Tensor
    codec: UpdateCodec | None

    def apply(self, message: tf.Tensor) -> tf.Operation:
        """Applies the message after it has arrived on the server."""
        if self.codec is not None:
            with tf.device(self.stores[0][0].device):
                message = self.codec.decode(message)
        return type(self.stores[0][0]).apply(self.rule, self.stores, message)


def _make_orders(updates: Sequence[RowUpdate], gradients: RoutedGradients) -> list[_Order]:
    """Makes one order for each server, for updates that share the kind, the rule and the hyperparameters."""
    # The gradients list the tables in the order of the lookups; the optimizer lists the updates in the order of its
    # variables.
    by_table = {id(update.table): update for update in updates}
    orders = []
    for server, pieces in enumerate(gradients.routes.pieces):
        if pieces:
            stores = [by_table[id(gradients.tables[table])].stores(shard) for table, shard in pieces]
            message = gradients.pack(server, updates[0].hyper)
            orders.append(_Order(server, updates[0].rule, stores, message, gradients.codec(server)))
    return orders


def _send_all(orders: Sequence[_Order], push_id: PushId | None) -> list[tf.Operation]:
    """Sends the orders of each server as one message, and returns their operations."""
    # A dict keeps the order of the first use, so that a second trace of the step makes the same graph.
    servers = list(dict.fromkeys(order.server for order in orders))
    return [
        operation
        for server in servers
        for operation in _send([order for order in orders if order.server == server], push_id)
    ]


def _send(orders: Sequence[_Order], push_id: PushId | None) -> list[tf.Operation]:
    """Sends the orders of one server as one message, and returns their operations."""
    # All stores of the orders are on the same server.
    device = orders[0].stores[0][0].device

    def apply(messages: Sequence[tf.Tensor]) -> list[tf.Operation]:
        return [order.apply(message) for order, message in zip(orders, messages, strict=True)]

    messages = [order.message for order in orders]
    if push_id is None:
        return apply(send_as_one(messages, device) if len(orders) > 1 else messages)
    whole = tf.concat([messages[0] if len(messages) == 1 else concat_with_sizes(messages), push_id.lanes()], 0)
    with tf.device(device):
        # The identity makes the whole message cross once. The slices below are taken on the server.
        arrived = tf.identity(whole)
        # The id comes last, because a slice from the beginning of a tensor shares its buffer. A split would copy it.
        body = arrived[:-PUSH_ID_LANES]
        return [
            push_id.ledger.apply_if_new(
                arrived[-PUSH_ID_LANES:],
                lambda: apply(split_by_sizes(body, len(messages)) if len(messages) > 1 else [body]),
            )
        ]
