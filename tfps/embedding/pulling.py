"""Pulls the rows of lookup groups: one request and one answer a server, for all groups together."""

import itertools
from collections.abc import Sequence

import tensorflow as tf

from tfps.embedding.lookup_group import LookupGroup
from tfps.embedding.messages import send_as_one
from tfps.embedding.row_store import RowStore


def pull(groups: Sequence[LookupGroup]) -> list[tf.Tensor]:
    """Gathers the rows of each group beside its stores.

    Args:
        groups: routed.

    Returns:
        The answer of each group, [M, dim]: what the servers sent, one after the other.
    """
    blocks: list[list[tf.Tensor]] = [[] for _ in groups]
    num_servers = max((group.routes.num_servers for group in groups), default=0)
    # One message holds one dtype: float32, but for tables of another one that a user has put together.
    dtypes = {group.tables[0].dtype for group in groups}
    for server, dtype in itertools.product(range(num_servers), dtypes):
        chosen = [i for i, group in enumerate(groups) if group.tables[0].dtype == dtype and group.stores(server)]
        answers = _pull_from(server, [groups[i] for i in chosen]) if chosen else []
        for i, block in zip(chosen, answers, strict=True):
            blocks[i].append(block)
    return [of_group[0] if len(of_group) == 1 else tf.concat(of_group, 0) for of_group in blocks]


def _pull_from(server: int, groups: Sequence[LookupGroup]) -> list[tf.Tensor]:
    """The rows that one server has for each group, [m, dim] each."""
    stores = [group.stores(server) for group in groups]
    requests = [group.routed.requests[server] for group in groups]
    if len(groups) == 1:
        return [_gather(stores[0], requests[0])]
    received = send_as_one(requests, stores[0][0].device)
    rows = [_gather(of_group, request) for of_group, request in zip(stores, received, strict=True)]
    with tf.device(rows[0].device):
        answer = tf.concat([tf.reshape(block, [-1]) for block in rows], 0)
    # The worker knows how many rows it asked for, so the answer carries no sizes.
    counts = [group.routed.answer_rows()[server] * group.tables[0].dim for group in groups]
    # The identity is on the worker: it is what crosses.
    parts = tf.split(tf.identity(answer), counts, num=len(groups))
    return [tf.reshape(part, [-1, group.tables[0].dim]) for part, group in zip(parts, groups, strict=True)]


def _gather(stores: Sequence[RowStore], request: tf.Tensor) -> tf.Tensor:
    return type(stores[0]).gather(stores, request)
