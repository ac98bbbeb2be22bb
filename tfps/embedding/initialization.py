"""First values of a table, made on the servers, chunk by chunk, so that none of them passes through the chief.

The values are those that one process would have drawn for the whole table, whatever the number of shards: a row is
drawn by its global id, and each server keeps the rows it holds.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from tfps.ops.routing_graph import global_of
from tfps.placement.model import Placement
from tfps.placement.routing import Routing

RowSource: TypeAlias = Callable[[int, int], Any]
"""Rows [end - start, dim] of a whole table from global row `start` (a multiple of 4) to `end`."""

_CHUNK_BYTES = 32 << 20


def fill(placement: Placement, shards: list[Any], rows: RowSource) -> None:
    """Writes first values into shards that hold zeros.

    Args:
        placement: of the table.
        shards: one variable [rows of the shard, dim] each; the values are drawn on its device.
        rows: gives the rows of any range of the whole table.
    """
    routing = placement.routing or Routing("div", placement.spec.rows, 1)
    step = max(
        4 * routing.shards,
        _CHUNK_BYTES // max(1, placement.spec.row_bytes) // (4 * routing.shards) * 4 * routing.shards,
    )
    for index, shard in enumerate(shards):
        with tf.device(shard.device):
            for start in range(0, placement.spec.rows, step):
                _fill_chunk(routing, index, shard, rows, (start, min(placement.spec.rows, start + step)))


def _fill_chunk(routing: Routing, index: int, shard: Any, rows: RowSource, span: tuple[int, int]) -> None:
    """Writes those rows of `span` that the shard holds."""
    start, end = span
    first, last = _local_span(routing, index, start, end)
    if first == last:
        return
    local = tf.range(first, last, dtype=tf.int64)
    values = tf.gather(rows(start, end), global_of(routing, index, local) - start)
    shard.scatter_update(tf.IndexedSlices(values, local))


def _local_span(routing: Routing, index: int, start: int, end: int) -> tuple[int, int]:
    """Local rows of a shard whose global rows are in [start, end); `start` is a multiple of the number of shards."""
    held = routing.shard_rows(index)
    if routing.kind == "div" or routing.shards == 1:
        first = int(routing.global_of(index, np.array(0)))
        return min(max(start - first, 0), held), min(max(end - first, 0), held)
    _, local = routing.locate(np.array([start, end - 1]))
    return min(int(local[0]), held), min(int(local[1]) + 1, held)
