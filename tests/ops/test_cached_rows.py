"""The rows that a worker keeps, against a dictionary; and messages that fit no cache."""

import numpy as np
import pytest
import tensorflow as tf

from tfps.errors import UnsupportedError
from tfps.ops import cached_rows
from tfps.ops.cached_rows import Query
from tfps.ops.route_unique import route_unique
from tfps.ops.routes import RouteMap, TableRoute
from tfps.placement.routing import Routing

DIM = 3


@pytest.fixture
def cache(request):
    """Opens a cache of this name in this process."""
    handles = []

    def make(rows=4096, max_staleness=5, max_missed=3):
        handle = cached_rows.make_handle(request.node.name)
        handles.append(handle)
        open_cache(handle, 0, max_missed, rows, max_staleness)
        return handle

    yield make
    for handle in handles:
        tf.raw_ops.DestroyResourceOp(resource=handle, ignore_lookup_error=True)


def open_cache(handle, version, max_missed, rows=4096, max_staleness=5):
    numbers = tf.constant(version, tf.int64), tf.constant(max_missed, tf.int64)
    cached_rows.open_cache(handle, *numbers, rows, max_staleness)


def rows_of(routes, request, server):
    """The (table, shard, local row) of each row of a request."""
    counts, rows = request[: len(routes.pieces[server])], iter(request[len(routes.pieces[server]) :])
    return [
        (*piece, next(rows)) for piece, count in zip(routes.pieces[server], counts, strict=True) for _ in range(count)
    ]


@pytest.mark.parametrize(("max_staleness", "max_missed"), [(1, 9), (4, 2), (7, 7)])
def test_steps_request_what_a_dictionary_says(cache, rng, max_staleness, max_missed):
    """The twin keeps, for each row, the step in which it was fetched and the steps that have used it since."""
    routes = RouteMap(
        (
            TableRoute("a", Routing("hash", 90, 2), (0, 1)),
            TableRoute("b", Routing("mod", 60, 3), (2, 0, 2)),
            TableRoute("c", Routing("div", 20, 1), (1,)),
        ),
        3,
    )
    numbers = [17, 0, 5]
    tables = [[numbers[table] for table, _ in pieces] for pieces in routes.pieces]
    twin, version, saved = {}, 0, 0
    totals = np.zeros(3, int)
    handle = cache(max_staleness=max_staleness, max_missed=max_missed)
    for step in range(60):
        if step in (20, 21, 45):  # the rows were assigned
            version, twin = version + 1, {}
        open_cache(handle, version, max_missed)
        cached_rows.begin_step(handle)
        ids = [rng.integers(0, route.routing.rows, rng.integers(0, 50)) for route in routes.tables]
        routed = route_unique(routes, ids)
        query = Query(routed.unique_ids, routed.requests, tables)
        found = cached_rows.find(handle, query, DIM)
        places = [key for server in range(3) for key in rows_of(routes, routed.requests[server].numpy(), server)]
        expected, missing = np.zeros((len(places), DIM), np.float32), []
        for place, key in enumerate(places):
            fetched, uses, row = twin.get(key, (-99, 0, None))
            if step - fetched <= max_staleness and uses < max_missed:
                twin[key], expected[place] = (fetched, uses + 1, row), row
                saved += 8 + 4 * DIM
            else:
                missing.append(place)
        np.testing.assert_array_equal(found.rows, expected)
        np.testing.assert_array_equal(found.missing, missing)
        asked = [key for server in range(3) for key in rows_of(routes, found.remaining[server].numpy(), server)]
        assert asked == [places[place] for place in missing]
        fetched_rows = rng.normal(size=(len(missing), DIM)).astype("float32")
        answer = cached_rows.store(handle, query, found, tf.constant(fetched_rows))
        expected[missing] = fetched_rows
        np.testing.assert_array_equal(answer, expected)
        twin.update({places[place]: (step, 0, row) for place, row in zip(missing, fetched_rows, strict=True)})
        totals += [len(places), len(places) - len(missing), 0]
    totals[2] = saved
    np.testing.assert_array_equal(cached_rows.take_counts(handle), totals)
    assert 0 < totals[1] < totals[0]
    np.testing.assert_array_equal(cached_rows.take_counts(handle), [0, 0, 0])


def one_server(ids):
    ids = tf.constant(ids, tf.int64)
    return Query(ids, [tf.concat([[tf.size(ids, tf.int64)], ids], 0)], [[0]])


def test_a_small_cache_keeps_the_rows_that_come_most(cache):
    handle = cache(rows=16, max_staleness=1000, max_missed=1000)
    hot = np.arange(8)
    for step in range(60):
        cached_rows.begin_step(handle)
        # Beside the hot rows, rows that come once: many times as many as the cache has places.
        query = one_server(np.concatenate([hot, 1000 + np.arange(50) + 50 * step]))
        found = cached_rows.find(handle, query, 1)
        cached_rows.store(handle, query, found, tf.ones([tf.size(found.missing), 1]))
    assert found.missing.numpy().min() == len(hot)


def test_a_cache_that_was_destroyed_is_made_again_and_empty(cache):
    handle, query = cache(), one_server([4, 2])

    def missing():
        cached_rows.begin_step(handle)
        found = cached_rows.find(handle, query, 1)
        cached_rows.store(handle, query, found, tf.ones([tf.size(found.missing), 1]))
        return found.missing.numpy().tolist()

    assert [missing(), missing()] == [[0, 1], []]
    tf.raw_ops.DestroyResourceOp(resource=handle)
    with pytest.raises(tf.errors.NotFoundError):
        cached_rows.begin_step(handle)
    cache()
    assert missing() == [0, 1]


QUERY = one_server([4, 2])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query(tf.constant([4], tf.int64), QUERY.requests, [[0]]), "one for each of the 2 rows"),
        (Query(QUERY.ids, [tf.constant([9, 4, 2], tf.int64)], [[0]]), "counts"),
        (Query(QUERY.ids, [tf.constant([-1, 4, 2], tf.int64)], [[0]]), "counts"),
        (Query(QUERY.ids, [tf.constant([], tf.int64)], [[0]]), "request"),
        (Query(QUERY.ids, QUERY.requests, [[-1]]), "`tables` a number"),
        (Query(QUERY.ids, QUERY.requests, [[2**31]]), "`tables` a number"),
        (Query(QUERY.ids, QUERY.requests, [[0], [1]]), "an element for each of 1 servers"),
    ],
)
def test_queries_that_do_not_add_up_are_refused(cache, query, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        cached_rows.find(cache(), query, DIM)


@pytest.mark.parametrize(
    ("changes", "fetched"),
    [
        ({"missing": tf.constant([0, 7])}, [2, DIM]),
        ({"missing": tf.constant([0, -1])}, [2, DIM]),
        ({"missing": tf.constant([0])}, [2, DIM]),
        ({"rows": tf.zeros([1, DIM])}, [2, DIM]),
        ({"moment": tf.zeros([3], tf.int64)}, [2, DIM]),
        ({}, [2, DIM + 1]),
        ({}, [3, DIM]),
    ],
)
def test_answers_that_do_not_fit_are_refused(cache, changes, fetched):
    handle = cache()
    found = cached_rows.find(handle, QUERY, DIM)._replace(**changes)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must"):
        cached_rows.store(handle, QUERY, found, tf.zeros(fetched))


def test_without_the_library_there_is_no_cache(monkeypatch):
    monkeypatch.setenv("TFPS_DISABLE_OPS", "1")
    with pytest.raises(UnsupportedError, match="`cache_rows` needs the C"):
        cached_rows.make_handle("any")
