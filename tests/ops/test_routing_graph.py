"""The routing rule as a graph against its owner, `tfps.placement.routing`, in both directions."""

import numpy as np
import pytest
import tensorflow as tf

from tfps.ops import routing_graph
from tfps.placement import routing
from tfps.placement.routing import Routing

SIZES = [(1, 1), (10, 4), (12, 4), (7, 7), (1000, 7), (100_003, 10), (2**40 + 12_345, 1000), (2**62, 1000)]


@pytest.fixture(params=["div", "mod", "hash"])
def kind(request):
    return request.param


def ids_of(rule, rng):
    """First, last, and 500 in between."""
    return np.unique(np.r_[0, rule.rows - 1, rng.integers(0, rule.rows, 500)])


@pytest.mark.parametrize(("rows", "shards"), SIZES)
def test_locate_is_that_of_placement(kind, rows, shards, rng):
    rule = Routing(kind, rows, shards)
    ids = ids_of(rule, rng)
    for got, expected in zip(routing_graph.locate(rule, tf.constant(ids)), rule.locate(ids), strict=True):
        assert got.dtype == tf.int64
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("rows", "shards"), SIZES)
def test_global_of_is_that_of_placement_and_inverts_locate(kind, rows, shards, rng):
    rule = Routing(kind, rows, shards)
    ids = ids_of(rule, rng)
    shard, local = rule.locate(ids)
    for index in np.unique(shard):
        held = local[shard == index]
        got = routing_graph.global_of(rule, int(index), tf.constant(held))
        assert got.dtype == tf.int64
        np.testing.assert_array_equal(got, rule.global_of(int(index), held))
        np.testing.assert_array_equal(got, ids[shard == index])


def test_shapes_are_kept_and_may_be_unknown(kind):
    rule = Routing(kind, 100, 3)

    @tf.function(input_signature=[tf.TensorSpec(None, tf.int64)])
    def there_and_back(ids):
        shard, local = routing_graph.locate(rule, ids)
        candidates = tf.stack([routing_graph.global_of(rule, index, local) for index in range(3)], -1)
        return tf.gather(candidates, shard, axis=-1, batch_dims=2)

    ids = np.arange(24).reshape(4, 6)
    np.testing.assert_array_equal(there_and_back(ids), ids)


def test_the_prime_is_that_of_placement():
    assert routing_graph.PRIME == routing.PRIME
