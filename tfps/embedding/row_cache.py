"""`RowCache`: a worker keeps the rows that its steps ask for most, and uses each for a bounded number of steps.

It stands between the routing of ids and the request: rows that are kept and fresh are not requested, and the answer of
the servers is completed by them. Pushes are as without it: each step pushes the gradients of all its rows.

Staleness: a row that was fetched in step t is used up to step t + `max_staleness` of this worker, and in at most
`MOST_MISSED` of these steps, or fewer while the model is young. So it lacks at most that many updates that the worker
itself has pushed, and those of other workers in this time. Tables that grow are not cached: their servers have to know
which rows the steps use, because they evict the others. Tables of other types than float32 are not either.

Threading: each thread that traces has a current cache of its own, or none. Ownership: the worker has the rows, under a
name, and `tfps.training.worker_caches` destroys them. Cost: three ops on the worker for each step.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Sequence

import tensorflow as tf

from tfps.embedding.lookup_group import LookupGroup
from tfps.embedding.pulling import pull
from tfps.embedding.routed_rows import RoutedRows
from tfps.ops import cached_rows
from tfps.ops.cached_rows import FoundRows, Query

MOST_MISSED = 4
"""The most updates of this worker that a row may lack. It bounds the error of the rows of every step, which would lack
as many as `max_staleness`, while rarer rows are used for long; docs/performance.md has the figures."""


@dataclasses.dataclass(frozen=True)
class CacheSize:
    """How much a worker keeps, and for how long.

    Args:
        rows: the rows of each width of tables, at least 1; a worker keeps up to 15 more.
        max_staleness: the steps for which a row is used after the step that has fetched it, at least 1.
        max_missed: how often it is used in these steps, each of which updates it, at least 1.
    """

    rows: int
    max_staleness: int
    max_missed: int = MOST_MISSED


class RowCache:
    """The rows that the worker of the graph under trace keeps. Make it while the graph of a closure is traced.

    Args:
        name: the name of the rows on each worker.
        size: how much is kept.
        version: the version of all rows when the closure began (`tfps.embedding.row_version`), int64 scalar.
        max_missed: how often a row is used in this closure, int64 scalar.
    """

    def __init__(self, name: str, size: CacheSize, version: tf.Tensor, max_missed: tf.Tensor) -> None:
        # One handle for the whole closure: TensorFlow orders the operations on one resource tensor as they are traced.
        self._handle = cached_rows.make_handle(name)
        cached_rows.open_cache(self._handle, version, max_missed, size.rows, size.max_staleness)

    def begin_step(self) -> None:
        """Makes every row that is kept one step older; called before the first lookup of a step."""
        cached_rows.begin_step(self._handle)

    def pull(self, groups: Sequence[LookupGroup]) -> list[tf.Tensor]:
        """Does what `tfps.embedding.pulling.pull` does, and requests no rows that are kept and fresh."""
        queries = [_query_of(group) if _is_cached(group) else None for group in groups]
        found = [
            None if query is None else cached_rows.find(self._handle, query, group.tables[0].dim)
            for query, group in zip(queries, groups, strict=True)
        ]
        answers = pull([_remaining(group, one) for group, one in zip(groups, found, strict=True)])
        return [
            answer if query is None or one is None else cached_rows.store(self._handle, query, one, answer)
            for query, one, answer in zip(queries, found, answers, strict=True)
        ]

    def take_counts(self) -> tf.Tensor:
        """Returns the rows asked for since the last call, those that were kept, and the bytes saved: int64 [3]."""
        return cached_rows.take_counts(self._handle)


def _is_cached(group: LookupGroup) -> bool:
    table = group.tables[0]
    return type(table.stores[0]).may_be_cached and table.dtype == tf.float32


def _query_of(group: LookupGroup) -> Query:
    tables = [[_number(group.tables[table]) for table, _ in pieces] for pieces in group.routes.pieces]
    return Query(group.routed.unique_ids, group.routed.requests, tables)


def _number(table: RoutedRows) -> int:
    """Returns the number of a table, which is the same in all graphs of the program."""
    key = table.key
    assert isinstance(key, tuple)
    return int(key[1])


def _remaining(group: LookupGroup, found: FoundRows | None) -> LookupGroup:
    """Returns a group that asks for the missing rows alone."""
    if found is None:
        return group
    return dataclasses.replace(group, routed=dataclasses.replace(group.routed, requests=found.remaining))


class _State(threading.local):
    cache: RowCache | None = None


_STATE = _State()


def current() -> RowCache | None:
    """Returns the cache of the closure that this thread traces; None if its lookups read fresh rows."""
    return _STATE.cache


def begin_step() -> None:
    """Tells the cache of the closure under trace, if there is one, that a step begins."""
    if _STATE.cache is not None:
        _STATE.cache.begin_step()


@contextlib.contextmanager
def using(cache: RowCache | None) -> Iterator[None]:
    """Lets the lookups that are traced within use a cache; None for fresh rows."""
    before, _STATE.cache = _STATE.cache, cache
    try:
        yield
    finally:
        _STATE.cache = before
