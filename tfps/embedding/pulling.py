"""Pulls the rows of lookup groups by one request to each server and one answer from it, for all groups together."""

import itertools
from collections.abc import Sequence
from typing import cast

import tensorflow as tf

from tfps.embedding import wire
from tfps.embedding.lookup_group import LookupGroup
from tfps.embedding.messages import send_as_one
from tfps.embedding.row_store import RowStore
from tfps.ops.request_codec import decode_request, encode_request
from tfps.ops.row_codec import RowCodec, coded_floats, decode_rows, encode_rows
from tfps.stages import ROWS, in_stage

_CODED = "coded"
"""Stands for the dtype of groups whose rows cross in fewer bytes."""


@in_stage(ROWS)
def pull(groups: Sequence[LookupGroup]) -> list[tf.Tensor]:
    """Pulls the rows of each group from its servers.

    Args:
        groups: groups from `tfps.embedding.lookup_group.route`.

    Returns:
        The answer of each group, [M, dim]: the rows that the servers sent, one server after the other.
    """
    # blocks[g] collects the rows of group g, server by server.
    blocks: list[list[tf.Tensor]] = [[] for _ in groups]
    num_servers = max((group.routes.num_servers for group in groups), default=0)
    # A message holds one dtype, that in which the servers keep the rows; coded rows of every dtype are float32.
    kinds = [_CODED if wire.codec_of(group.tables[0]) else group.tables[0].stored_dtype.name for group in groups]
    for server, kind in itertools.product(range(num_servers), dict.fromkeys(kinds)):
        chosen = [i for i, group in enumerate(groups) if kinds[i] == kind and group.stores(server)]
        pull_from = _pull_coded_from if kind == _CODED else _pull_from
        answers = pull_from(server, [groups[i] for i in chosen]) if chosen else []
        for i, block in zip(chosen, answers, strict=True):
            blocks[i].append(block)
    joined = [rows[0] if len(rows) == 1 else tf.concat(rows, 0) for rows in blocks]
    # The worker widens: the answer has crossed in the dtype of the servers.
    return [tf.cast(rows, group.tables[0].dtype) for rows, group in zip(joined, groups, strict=True)]


def _pull_from(server: int, groups: Sequence[LookupGroup]) -> list[tf.Tensor]:
    """Pulls the rows of each group from one server: [m, dim] for each group."""
    stores = [group.stores(server) for group in groups]
    requests = [group.routed.requests[server] for group in groups]
    if len(groups) == 1:
        return [_gather(stores[0], requests[0])]
    received = send_as_one(requests, stores[0][0].device)
    rows = [_gather(group_stores, request) for group_stores, request in zip(stores, received, strict=True)]
    # The server concatenates the rows of all groups, so that one tensor crosses back.
    with tf.device(rows[0].device):
        answer = tf.concat([tf.reshape(block, [-1]) for block in rows], 0)
    # The worker knows how many rows it asked for, so the answer carries no sizes.
    counts = [group.routed.answer_rows()[server] * group.tables[0].dim for group in groups]
    # The identity runs on the worker and makes the whole answer cross. Without it, each part of the split would.
    parts = tf.split(tf.identity(answer), counts, num=len(groups))
    return [tf.reshape(part, [-1, group.tables[0].dim]) for part, group in zip(parts, groups, strict=True)]


def _pull_coded_from(server: int, groups: Sequence[LookupGroup]) -> list[tf.Tensor]:
    """Does what `_pull_from` does, with requests and rows in fewer bytes."""
    stores = [group.stores(server) for group in groups]
    codecs = [cast(RowCodec, wire.codec_of(group.tables[0])) for group in groups]
    device = stores[0][0].device
    requests = [
        encode_request(group.routed.requests[server], len(group_stores))
        for group, group_stores in zip(groups, stores, strict=True)
    ]
    received = requests if len(groups) == 1 else send_as_one(requests, device)
    with tf.device(device):
        coded = []
        for group_stores, request, codec in zip(stores, received, codecs, strict=True):
            rows = _gather(group_stores, decode_request(request, len(group_stores)))
            # Rounded to the nearest, so a row that nobody changes reads the same each time.
            coded.append(encode_rows(tf.cast(rows, tf.float32), codec, stochastic=False))
        answer = coded[0] if len(coded) == 1 else tf.concat(coded, 0)
    counts = [group.routed.answer_rows()[server] for group in groups]
    answer = tf.identity(answer)
    sizes = [
        coded_floats(count, group.tables[0].dim, c) for count, group, c in zip(counts, groups, codecs, strict=True)
    ]
    parts = [answer] if len(groups) == 1 else tf.split(answer, sizes, num=len(groups))
    return [
        tf.cast(decode_rows(part, count, group.tables[0].dim, codec), group.tables[0].dtype)
        for part, count, group, codec in zip(parts, counts, groups, codecs, strict=True)
    ]


def _gather(stores: Sequence[RowStore], request: tf.Tensor) -> tf.Tensor:
    """Gathers the rows of a request by the method of the stores' own type."""
    return type(stores[0]).gather(stores, request)
