"""route_unique against a brute-force twin, in both of its forms, and against the one owner of the routing rule."""

import numpy as np
import pytest
import tensorflow as tf

from tfps.errors import ConfigError, IdRangeError
from tfps.ops.route_unique import route_unique
from tfps.ops.routes import RouteMap, TableRoute
from tfps.placement.routing import Routing


def brute_force(routes, ids):
    """Requests, unique ids, table order, inverse, by dictionaries and the rule's own arithmetic."""
    rows = {}  # (server, table, shard) -> {id: local row}, in the order asked for
    for t, (table, wanted) in enumerate(zip(routes.tables, ids, strict=True)):
        shards, local = table.routing.locate(wanted.reshape(-1))
        for i, shard, row in zip(wanted.reshape(-1), shards, local, strict=True):
            rows.setdefault((table.servers[shard], t, int(shard)), {}).setdefault(int(i), int(row))
    requests, answer = [], []
    for server, pieces in enumerate(routes.pieces):
        found = [rows.get((server, *piece), {}) for piece in pieces]
        requests.append([len(f) for f in found] + [row for f in found for row in f.values()])
        answer += [(t, i) for (t, _), f in zip(pieces, found, strict=True) for i in f]
    row_of = {wanted: row for row, wanted in enumerate(answer)}
    order = [row_of[t, int(i)] for t, wanted in enumerate(ids) for i in dict.fromkeys(wanted.reshape(-1))]
    inverse = [np.vectorize(lambda i, t=t: row_of[t, i], otypes=[int])(w) for t, w in enumerate(ids)]
    return requests, [i for _, i in answer], order, inverse


def random_routes(rng, servers):
    tables = []
    for t in range(rng.integers(1, 6)):
        rows = int(rng.choice([1, 5, 100, 10_000, 2**40]))
        shards = int(rng.integers(1, min(rows, 6) + 1))
        homes = tuple(int(s) for s in rng.integers(0, servers, shards))
        tables.append(TableRoute(f"table_{t}", Routing(str(rng.choice(["div", "mod", "hash"])), rows, shards), homes))
    return RouteMap(tuple(tables), servers)


def random_ids(rng, routes):
    shapes = [(0,), (1,), (50,), (7, 3), (3000,)]
    picked = [shapes[rng.integers(len(shapes))] for _ in routes.tables]
    return [rng.integers(0, min(t.routing.rows, 10**12), s) for t, s in zip(routes.tables, picked, strict=True)]


@pytest.mark.parametrize("seed", range(12))
def test_equals_brute_force(way, seed):
    rng = np.random.default_rng(seed)
    routes = random_routes(rng, servers=1 + seed % 4)
    ids = random_ids(rng, routes)
    requests, unique_ids, order, inverse = brute_force(routes, ids)
    routed = route_unique(routes, ids)
    for got, expected in zip(routed.requests, requests, strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(routed.unique_ids, unique_ids)
    np.testing.assert_array_equal(routed.table_order, order)
    np.testing.assert_array_equal(routed.table_sizes, [len(np.unique(i)) for i in ids])
    for got, expected in zip(routed.inverse, inverse, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_answer_brings_each_id_its_own_row(way, rng):
    routes = random_routes(rng, servers=3)
    ids = random_ids(rng, routes)
    routed = route_unique(routes, ids)
    for wanted, places in zip(ids, routed.inverse, strict=True):
        np.testing.assert_array_equal(tf.gather(routed.unique_ids, places), wanted)
    assert sum(routed.answer_rows()) == len(routed.unique_ids)


def test_many_ids_are_shared_out_over_threads(rng):
    tables = tuple(TableRoute(f"t{i}", Routing("hash", 1_000_000, 2), (0, 1)) for i in range(8))
    routes = RouteMap(tables, 2)
    ids = [rng.zipf(1.3, 50_000) % 1_000_000 for _ in tables]
    requests, *_ = brute_force(routes, ids)
    for got, expected in zip(route_unique(routes, ids).requests, requests, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_within_a_function_with_unknown_shapes(way):
    routes = RouteMap((TableRoute("a", Routing("mod", 10, 2), (0, 1)),), 2)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def run(ids):
        routed = route_unique(routes, [ids])
        return routed.requests, routed.inverse

    requests, inverse = run([[3, 4], [3, 9]])
    np.testing.assert_array_equal(requests[0], [1, 2])
    np.testing.assert_array_equal(requests[1], [2, 1, 4])
    np.testing.assert_array_equal(inverse[0], [[1, 0], [1, 2]])


@pytest.mark.parametrize("bad", [-1, 100, 2**62])
def test_id_out_of_range_names_table_id_and_range(way, bad):
    tables = tuple(TableRoute(name, Routing("hash", 100, 2), (0, 1)) for name in ("user", "item"))
    with pytest.raises(IdRangeError) as error:
        route_unique(RouteMap(tables, 2), [[0, 99], [7, bad]])
    assert f"in table 'item' must be at least 0 and below 100. Received: {bad}, at ids[1] of ids" in str(error.value)
    assert (error.value.table, error.value.id, error.value.place) == ("item", bad, (1,))


def test_the_place_of_an_id_out_of_range_is_an_index_into_ids_of_any_shape(way):
    tables = (TableRoute("item", Routing("mod", 7, 2), (0, 1)),)
    for shape in ((), (5,), (4, 3), (2, 1, 3), (1, 1, 1, 1)):
        for place in np.ndindex(shape):
            ids = np.zeros(shape, np.int64)
            ids[place] = 7
            with pytest.raises(IdRangeError) as error:
                route_unique(RouteMap(tables, 2), [ids])
            assert error.value.shape == shape and error.value.place == place


def test_arguments_are_checked():
    one = TableRoute("a", Routing("div", 10, 2), (0, 1))
    with pytest.raises(ConfigError, match="one server, at least 0, for each of the 2 shards of table 'a'"):
        TableRoute("a", Routing("div", 10, 2), (0,))
    with pytest.raises(ConfigError, match="below num_servers, 1"):
        RouteMap((one,), 1)
    with pytest.raises(ConfigError, match="at least one table"):
        RouteMap((), 1)
    with pytest.raises(ConfigError, match="one tensor a table, 1. Received: 2"):
        route_unique(RouteMap((one,), 2), [[1], [2]])
