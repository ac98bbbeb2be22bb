"""First values of a table, made on the servers, chunk by chunk, so that none of them passes through the chief.

The values are those that one process would have drawn for the whole table, whatever the number of shards: a row is
drawn by its global id, and each server keeps the rows it holds.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from tfps.embedding.row_store import RowStore
from tfps.ops.routing_graph import global_of
from tfps.placement.routing import Routing
from tfps.placement.spec import VariableSpec

RowSource: TypeAlias = Callable[[int, int], tf.Tensor]
"""Rows [end - start, dim] of a whole table from global row `start` (a multiple of 4) to `end`."""

_CHUNK_BYTES = 32 << 20
"""Of the rows that are drawn at a time on a server: large enough that the ops cost nothing, small beside a table."""
_LARGE_BYTES = 1 << 30
_LOG = logging.getLogger("tfps")


@dataclasses.dataclass(frozen=True)
class InitialValue:
    """How a variable or a table gets its first value.

    Args:
        whole: returns all of it; runs where the value is needed, with no argument.
        rows: for a table, gives any range of rows, or None where only `whole` can.
        constant: the value of every element, where there is one.
    """

    whole: Callable[[], tf.Tensor]
    rows: RowSource | None = None
    constant: float | None = None


def fill(stores: Sequence[RowStore], routing: Routing, initial: InitialValue, spec: VariableSpec) -> None:
    """Writes first values into the stores of a table, on their servers.

    Args:
        stores: one a shard.
        routing: of the table.
        initial: the values.
        spec: of the table.
    """
    source = _constant_rows(initial.constant, spec) if initial.constant is not None else initial.rows
    if source is None:
        _fill_from_whole(stores, routing, initial.whole, spec)
        return
    # Chunks begin at multiples of 4, where the generator's blocks begin, and of the number of shards, so that the
    # rows of a chunk are a range of local rows on each shard.
    unit = 4 * routing.shards
    step = max(unit, _CHUNK_BYTES // max(1, spec.row_bytes) // unit * unit)
    for index, store in enumerate(stores):
        with tf.device(store.device):
            for start in range(0, spec.rows, step):
                _fill_chunk(routing, index, store, source, (start, min(spec.rows, start + step)))


def _constant_rows(value: float, spec: VariableSpec) -> RowSource:
    return lambda start, end: tf.fill([end - start, spec.shape[1]], tf.cast(value, spec.dtype))


def _fill_from_whole(
    stores: Sequence[RowStore], routing: Routing, whole: Callable[[], tf.Tensor], spec: VariableSpec
) -> None:
    """An initializer that can only draw all rows at once draws them on each server, which keeps its own."""
    if spec.nbytes > _LARGE_BYTES:
        _LOG.warning(
            "the initializer of %s cannot draw single rows: every server draws all of %s at once", spec.name, spec.shape
        )
    for index, store in enumerate(stores):
        with tf.device(store.device):
            local = tf.range(routing.shard_rows(index), dtype=tf.int64)
            store.assign(local, tf.gather(whole(), global_of(routing, index, local)))


def _fill_chunk(routing: Routing, index: int, store: RowStore, source: RowSource, span: tuple[int, int]) -> None:
    """Writes those rows of `span` that the shard holds."""
    start, end = span
    first, last = _local_span(routing, index, start, end)
    if first == last:
        return
    # All rows of the span are drawn, as the generator counts them, and those of other shards are dropped.
    local = tf.range(first, last, dtype=tf.int64)
    store.assign(local, tf.gather(source(start, end), global_of(routing, index, local) - start))


def _local_span(routing: Routing, index: int, start: int, end: int) -> tuple[int, int]:
    """Local rows of a shard whose global rows are in [start, end); `start` is a multiple of the number of shards."""
    count = routing.shard_rows(index)
    if routing.kind == "div" or routing.shards == 1:
        first = int(routing.global_of(index, np.array(0)))
        return min(max(start - first, 0), count), min(max(end - first, 0), count)
    # Blocks of `shards` neighbours share a local row, so the first and the last id of the span bound the range.
    _, local = routing.locate(np.array([start, end - 1]))
    return min(int(local[0]), count), min(int(local[1]) + 1, count)
