"""Draws the first values of a table on its servers, chunk by chunk. No value passes through the chief.

The number of shards does not change the values: they are the ones that a single process would draw for the whole table.
Each row is drawn by its global id, and each server keeps the rows that it holds.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import tensorflow as tf

from tfps.embedding.row_store import RowStore
from tfps.ops.routing_graph import global_of
from tfps.placement.routing import Routing
from tfps.placement.spec import VariableSpec, dtype_bytes

if TYPE_CHECKING:
    from tfps.embedding.growth import FirstValue

RowSource: TypeAlias = Callable[[int, int], tf.Tensor]
"""Returns the global rows from `start` (a multiple of 4) to `end` of a table: [end - start, dim]."""

_CHUNK_BYTES = 32 << 20
"""Bytes of the rows that a server draws at a time: enough to hide the cost of the ops, and small beside a table."""

_LARGE_BYTES = 1 << 30
"""A table of more bytes than this gets a warning if its initializer can only draw all rows at once."""

_LOG = logging.getLogger("tfps")


@dataclasses.dataclass(frozen=True)
class InitialValue:
    """How a variable or a table gets its first value.

    Args:
        whole: a function that returns the whole value. It runs on the device that needs the value.
        rows: a function that returns any range of rows of a table; None if the initializer can only draw all rows.
        constant: the value of every element; None if the elements differ.
        first: how the row of any id is drawn, for a table that grows; None if the initializer cannot, or is a constant.
    """

    whole: Callable[[], tf.Tensor]
    rows: RowSource | None = None
    constant: float | None = None
    first: "FirstValue | None" = None


def fill(stores: Sequence[RowStore], routing: Routing, initial: InitialValue, spec: VariableSpec) -> None:
    """Writes the first values of a table into its stores, on their servers.

    Args:
        stores: the store of each shard.
        routing: the routing of the table.
        initial: the first values.
        spec: the spec of the table.
    """
    # A constant needs no generator, so it goes first even where the initializer can also draw ranges of rows.
    source = _constant_rows(initial.constant, spec) if initial.constant is not None else initial.rows
    if source is None:
        _fill_from_whole(stores, routing, initial.whole, spec)
        return
    # A chunk begins at a multiple of 4, because the generator draws rows in blocks of 4. It also begins at a multiple
    # of the number of shards, so that its rows are one range of local rows on each shard.
    unit = 4 * routing.shards
    # By the type that is drawn: a server may keep the rows in a smaller one.
    row_bytes = math.prod(spec.shape[1:]) * dtype_bytes(spec.dtype)
    step = max(unit, _CHUNK_BYTES // max(1, row_bytes) // unit * unit)
    for index, store in enumerate(stores):
        with tf.device(store.device):
            for start in range(0, spec.rows, step):
                _fill_chunk(routing, index, store, source, (start, min(spec.rows, start + step)))


def _constant_rows(value: float, spec: VariableSpec) -> RowSource:
    """Returns a source whose rows have `value` in every element."""
    return lambda start, end: tf.fill([end - start, spec.shape[1]], tf.cast(value, spec.dtype))


def _fill_from_whole(
    stores: Sequence[RowStore], routing: Routing, whole: Callable[[], tf.Tensor], spec: VariableSpec
) -> None:
    """Draws the whole table on each server, which keeps its own rows, for an initializer that cannot draw a range."""
    if spec.nbytes > _LARGE_BYTES:
        _LOG.warning(
            "the initializer of %s cannot draw single rows: every server draws all %s values at once",
            spec.name,
            spec.shape,
        )
    for index, store in enumerate(stores):
        with tf.device(store.device):
            local = tf.range(routing.shard_rows(index), dtype=tf.int64)
            store.assign(local, tf.gather(whole(), global_of(routing, index, local)))


def _fill_chunk(routing: Routing, index: int, store: RowStore, source: RowSource, span: tuple[int, int]) -> None:
    """Writes the rows of `span` that the shard holds."""
    start, end = span
    first, last = _local_span(routing, index, start, end)
    if first == last:
        return
    # The generator can only draw every row of the span. The gather drops the rows of other shards.
    local = tf.range(first, last, dtype=tf.int64)
    store.assign(local, tf.gather(source(start, end), global_of(routing, index, local) - start))


def _local_span(routing: Routing, index: int, start: int, end: int) -> tuple[int, int]:
    """Returns the range of a shard's local rows whose global rows are in [start, end).

    `start` is a multiple of the number of shards.
    """
    count = routing.shard_rows(index)
    if routing.kind == "div" or routing.shards == 1:
        # Shard `index` holds one range of global rows, which begins at `first`.
        first = int(routing.global_of(index, np.array(0)))
        return min(max(start - first, 0), count), min(max(end - first, 0), count)
    # Each block of `shards` neighbouring ids has one local row, so the first and last id of the span bound the range.
    # Example: with 3 shards, ids 6 to 11 have the local rows 2 and 3 on every shard.
    _, local = routing.locate(np.array([start, end - 1]))
    return min(int(local[0]), count), min(int(local[1]) + 1, count)
