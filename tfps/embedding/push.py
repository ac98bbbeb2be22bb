"""The way back: gradients of the rows a step asked for go to the servers, one message each, and are applied there."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfps.embedding.lookup import Group, TableGradient, pieces_of, routes_of
from tfps.ops.apply_rows import apply_rows, pack_update
from tfps.ops.route_unique import RoutedIds, route_unique
from tfps.ops.routes import RouteMap
from tfps.ops.row_rules import RowRule
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


def push(updates: Sequence[RowUpdate], known: Sequence[TableGradient]) -> list[Any]:
    """Applies updates beside their rows.

    Args:
        updates: at most one a table.
        known: what the lookups of this step gave as gradients. Where the optimizer changed none of them (did not clip,
            say) they are pushed as they are; others are summed and routed again.

    Returns:
        The operations, one a server and width.
    """
    groups: dict[Any, list[RowUpdate]] = {}
    for update in updates:
        groups.setdefault((update.table.dim, update.table.dtype, update.rule.name, id(update.hyper)), []).append(update)
    return [operation for group in groups.values() for operation in _push_group(group, known)]


def _push_group(updates: list[RowUpdate], known: Sequence[TableGradient]) -> list[Any]:
    group = _unchanged(updates, known)
    if group is not None:
        by_table = {id(update.table): update for update in updates}
        ordered = [by_table[id(table)] for table in group.tables]
        return _send(ordered, group.routes, group.routed, group.in_answer_order([u.gradient.values for u in ordered]))
    routes = routes_of([update.table for update in updates])
    routed = route_unique(routes, [update.gradient.indices for update in updates])
    summed = segment_sum_rows(
        [update.gradient.values for update in updates], routed.inverse, tf.size(routed.unique_ids)
    )
    return _send(updates, routes, routed, summed)


def _unchanged(updates: list[RowUpdate], known: Sequence[TableGradient]) -> Group | None:
    """The group whose gradients these are: all of its tables, each looked up once, and nothing changed since."""
    given = {id(gradient.values): gradient for gradient in known}
    sources = [given.get(id(update.gradient.values)) for update in updates]
    group = sources[0].group if sources[0] is not None else None
    if group is None or len(group.tables) != len(updates):
        return None
    return group if all(source is not None and source.group is group for source in sources) else None


def _send(updates: Sequence[RowUpdate], routes: RouteMap, routed: RoutedIds, summed: Any) -> list[Any]:
    by_table = {id(update.table): update for update in updates}
    blocks = tf.split(summed, routed.answer_rows(), num=routes.num_servers) if routes.num_servers > 1 else [summed]
    operations = []
    for pieces, request, block in zip(
        pieces_of([u.table for u in updates], routes), routed.requests, blocks, strict=True
    ):
        if pieces:
            variables = [[part.shards[shard] for part in (t, *by_table[id(t)].slots)] for t, shard in pieces]
            message = pack_update(updates[0].hyper, request, block)
            operations.append(apply_rows(updates[0].rule, variables, message))
    return operations
