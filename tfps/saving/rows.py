"""The rows that a checkpoint writes: all, or those that were touched; read while they are written, or copied first.

Threading: each server's chunks are taken by one thread, that of its server.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tfps.embedding.row_store import RowStore
from tfps.embedding.table import Table, TouchedCursor
from tfps.saving.content import Content, TableContent
from tfps.saving.servers import run_on_servers
from tfps.strategy.strategy import ParameterServerStrategy

PART_BYTES = 64 << 20
"""The most bytes of one part: what a server, or the chief, needs of memory, and what is read at a time."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some rows of one shard, with their slots.

    Args:
        table: the position of the table among those of the content.
        shard: the shard.
        local: the local rows, int64 [m].
        rows: the rows, [m, dim], then those of each slot, on their server.
    """

    table: int
    shard: int
    local: np.ndarray[Any, Any]
    rows: list[tf.Tensor]

    @property
    def is_range(self) -> bool:
        """Whether the local rows follow one another; those of a table that grows come in no order."""
        return not self.local.size or (
            int(self.local[-1]) - int(self.local[0]) + 1 == self.local.size and bool((np.diff(self.local) == 1).all())
        )


class Rows(Protocol):
    """Rows to write."""

    def chunks(self, server: int) -> Iterator[Chunk]:
        """Yields the rows of a server, in chunks of at most `PART_BYTES`, with the server as the device."""
        ...


class AllRows:
    """All rows, read while they are written: a server needs memory for one chunk.

    Args:
        tables: the tables with their slots.
        part_bytes: the most bytes of a chunk; None for `PART_BYTES`.
    """

    def __init__(self, tables: Sequence[TableContent], part_bytes: int | None = None) -> None:
        self._tables, self._part_bytes = tables, part_bytes

    def chunks(self, server: int) -> Iterator[Chunk]:
        """See `Rows`."""
        for number, one in enumerate(self._tables):
            for shard in _shards_of(one.tables[0], server):
                for local, rows in one.tables[0].scan_shard(shard, one.tables[1:], _chunk_rows(one, self._part_bytes)):
                    yield Chunk(number, shard, local, rows)


class TouchedRows:
    """The rows that were touched since a moment.

    Args:
        tables: the tables with their slots.
        touched: for each table, the ids of its rows.
        part_bytes: the most bytes of a chunk; None for `PART_BYTES`.
    """

    def __init__(
        self,
        tables: Sequence[TableContent],
        touched: Sequence[np.ndarray[Any, Any]],
        part_bytes: int | None = None,
    ) -> None:
        self._tables, self._part_bytes = tables, part_bytes
        # Each id is located once, whatever the number of servers. The chief knows the ids alone: 8 bytes for each row.
        self._local = [_by_shard(one.tables[0], ids) for one, ids in zip(tables, touched, strict=True)]

    def chunks(self, server: int) -> Iterator[Chunk]:
        """See `Rows`."""
        for number, (one, by_shard) in enumerate(zip(self._tables, self._local, strict=True)):
            for shard in _shards_of(one.tables[0], server):
                wanted, size = by_shard[shard], _chunk_rows(one, self._part_bytes)
                for start in range(0, wanted.size, size):
                    local = wanted[start : start + size]
                    # A request has the count of each store, here of one, and then the local rows.
                    request = tf.constant(np.concatenate([[local.size], local]))
                    stores = [table.stores[shard] for table in one.tables]
                    yield Chunk(number, shard, local, [_gather(store, request) for store in stores])


def _gather(store: RowStore, request: tf.Tensor) -> tf.Tensor:
    """Returns rows on their server, in the dtype of the files, which is not that of the store perhaps."""
    rows = type(store).gather([store], request)
    with tf.device(rows.device):
        return tf.cast(rows, store.dtype)


class CopiedRows:
    """Rows that were copied first, in the memory of their servers, which is freed as they are written.

    Args:
        rows: the rows. They are copied by the constructor, on all servers at once.
        servers: the servers that hold them.
        strategy: the strategy of the servers.
    """

    def __init__(self, rows: Rows, servers: Sequence[int], strategy: ParameterServerStrategy) -> None:
        self._chunks: dict[int, collections.deque[Chunk]] = {server: collections.deque() for server in servers}
        # A chunk is a copy; it only has to be kept.
        units = {server: self._copies(rows, server) for server in servers}
        run_on_servers(strategy, units, "a server to copy its rows for a checkpoint")

    def _copies(self, rows: Rows, server: int) -> Iterator[Callable[[], None]]:
        for chunk in rows.chunks(server):
            self._chunks[server].append(chunk)
            # A unit for each chunk, so that each has the time limit of a unit.
            yield _nothing

    def chunks(self, server: int) -> Iterator[Chunk]:
        """See `Rows`."""
        kept = self._chunks[server]
        # Taken out before it is written: the server frees the copy with the last reference to it.
        while kept:
            yield kept.popleft()


class Touches:
    """Finds the rows that were touched between two checkpoints of a model.

    Only updates of rows are recorded. A table that was assigned in between has other rows too, so no delta can be made.
    """

    def __init__(self) -> None:
        self._cursors: dict[int, TouchedCursor] = {}
        self._assigned: dict[int, int] = {}

    def begin(self, content: Content) -> None:
        """Begins to record, from this moment on.

        Raises:
            UnsupportedError: the stores of a table cannot record updates.
        """
        for one in content.tables:
            _, self._cursors[id(one.tables[0])] = one.tables[0].touched_since(None)
            self._assigned[id(one.tables[0])] = assignments(one)

    def since(self, content: Content) -> tuple[list[np.ndarray[Any, Any]], Mapping[int, TouchedCursor]] | None:
        """Returns the ids of each table since `begin` or `advance`, and the cursors of this moment; None if unknown."""
        ids, cursors = [], {}
        for one in content.tables:
            key = id(one.tables[0])
            # A table that is new to us, or of another model, has no cursor.
            if key not in self._cursors or self._assigned[key] != assignments(one):
                return None
            found, cursors[key] = one.tables[0].touched_since(self._cursors[key])
            ids.append(found)
        return ids, cursors

    def evicted(self, content: Content) -> list[np.ndarray[Any, Any]] | None:
        """Returns the ids of each table that were evicted since `begin` or `advance`; None if some were forgotten.

        To be called after `since` and before `advance`; see `Table.evicted_since`.
        """
        found = [one.tables[0].evicted_since(self._cursors[id(one.tables[0])]) for one in content.tables]
        return [ids for ids, _ in found] if all(is_complete for _, is_complete in found) else None

    def advance(self, cursors: Mapping[int, TouchedCursor]) -> None:
        """Counts from later cursors on: what came before them was written."""
        self._cursors.update(cursors)


def assignments(one: TableContent) -> int:
    """Returns how often a table or one of its slots was assigned."""
    return sum(table.assignments for table in one.tables)


def servers_of(tables: Sequence[TableContent]) -> list[int]:
    """Returns the servers that hold rows of tables."""
    return sorted({server for one in tables for server in one.tables[0].servers})


def _nothing() -> None:
    """Does nothing: the chunk that a unit stands for was copied when it was taken."""


def _by_shard(table: Table, ids: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Returns the local rows of ids for each shard of a table, ascending."""
    shards, local = table.routing.locate(ids)
    order = np.lexsort((local, shards))
    return np.split(local[order], np.searchsorted(shards[order], np.arange(1, len(table.stores))))


def _shards_of(table: Table, server: int) -> list[int]:
    return [shard for shard, owner in enumerate(table.servers) if owner == server]


def _chunk_rows(one: TableContent, part_bytes: int | None) -> int:
    """Returns the rows of a part."""
    width = sum(table.dim * table.dtype.size for table in one.tables)
    return max(1, (part_bytes or PART_BYTES) // width)
