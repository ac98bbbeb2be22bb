"""The rows that a worker keeps: finds those that a step needs, and keeps those that it had to fetch.

tfps_ops/core/cache/worker_cache.h says how long a row is used and which rows are kept.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import tensorflow as tf

from tfps.errors import UnsupportedError
from tfps.ops import library


class FoundRows(NamedTuple):
    """The rows of a step that a worker keeps, and what it has to fetch.

    Args:
        remaining: for each server, the request without the rows that are kept, in the form of `route_unique`.
        rows: the rows that are kept, each at its place of the answer, float32 [M, dim]; zeros at the other places.
        missing: the places of the other rows, int32 [m], in the order in which the servers will send them.
        moment: the version and the step of the cache, int64 [2].
    """

    remaining: tuple[tf.Tensor, ...]
    rows: tf.Tensor
    missing: tf.Tensor
    moment: tf.Tensor


class Query(NamedTuple):
    """The rows that a step asks for.

    Args:
        ids: the global id of each row of the answer, int64 [M].
        requests: for each server, the request from `route_unique`.
        tables: for each server, the number of the table of each piece of its request.
    """

    ids: tf.Tensor
    requests: Sequence[tf.Tensor]
    tables: Sequence[Sequence[int]]

    def attributes(self) -> dict[str, Any]:
        """Returns the attributes of the ops."""
        return {
            "pieces": [len(of_server) for of_server in self.tables],
            "tables": [table for of_server in self.tables for table in of_server],
        }


def check_built() -> None:
    """Checks that the C++ ops are there.

    Raises:
        UnsupportedError: they are not.
    """
    _ops()


def _ops() -> ModuleType:
    ops = library.load()
    if ops is None:
        raise UnsupportedError(
            "`cache_rows` needs the C++ ops of tfps. Received: a TensorFlow without them. Build them with "
            "`pip install --no-build-isolation`, and leave TFPS_DISABLE_OPS unset; or set `cache_rows` to 0."
        )
    return ops


def make_handle(name: str) -> tf.Tensor:
    """Returns the handle of the rows that a worker keeps under a name. `open_cache` makes what it refers to."""
    return _ops().tfps_row_cache(shared_name=name)


def open_cache(
    handle: tf.Tensor, version: tf.Tensor, max_missed: tf.Tensor, rows: int, max_staleness: int
) -> tf.Operation:
    """Begins a closure: makes the cache if there is none, and forgets rows of other versions.

    Args:
        handle: the handle.
        version: the version of all rows, int64 scalar.
        max_missed: how often a row is used after the step that has fetched it, each time by a step that updates it; an
            int64 scalar, 0 for never.
        rows: the rows of each width that are kept.
        max_staleness: the steps for which a row is used after the step that has fetched it.
    """
    return _ops().tfps_open_row_cache(
        cache=handle, version=version, max_missed=max_missed, rows=rows, max_staleness=max_staleness
    )


def begin_step(handle: tf.Tensor) -> tf.Operation:
    """Begins a step: every row that is kept is one step older."""
    return _ops().tfps_begin_cache_step(cache=handle)


def find(handle: tf.Tensor, query: Query, dim: int) -> FoundRows:
    """Finds the rows of a step that are kept and fresh.

    Args:
        handle: the handle of an open cache.
        query: the rows that the step asks for.
        dim: the width of the rows.
    """
    found = _ops().tfps_find_cached_rows(
        cache=handle, ids=query.ids, requests=query.requests, dim=dim, **query.attributes()
    )
    return FoundRows(tuple(found.remaining), found.rows, found.missing, found.moment)


def store(handle: tf.Tensor, query: Query, found: FoundRows, fetched: tf.Tensor) -> tf.Tensor:
    """Joins the rows that were fetched with those that were kept, and keeps the rows that are asked for most.

    Args:
        handle: the handle of the same cache.
        query: the rows that the step asks for.
        found: the result of `find` for them.
        fetched: the missing rows, float32 [m, dim].

    Returns:
        All rows, float32 [M, dim], in the order of the answer.
    """
    return _ops().tfps_store_cached_rows(
        cache=handle,
        ids=query.ids,
        requests=query.requests,
        rows=found.rows,
        missing=found.missing,
        moment=found.moment,
        fetched=fetched,
        **query.attributes(),
    )


def take_counts(handle: tf.Tensor) -> tf.Tensor:
    """Returns, since the last call, the rows asked for, those that were kept, and the bytes saved: int64 [3]."""
    return _ops().tfps_take_cache_counts(cache=handle)
