"""combine_rows and its gradients against numpy and tf.nn, in both of their forms."""

import numpy as np
import pytest
import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops import library
from tfps.ops.combine_rows import COMBINERS, Pooling, combine_rows, combine_weights_gradient

ROWS, BAGS = 30, 12


def divisors(segments, weights, combiner):
    totals = np.zeros(BAGS)
    np.add.at(totals, segments, {"sum": weights * 0, "mean": weights, "sqrtn": weights**2}[combiner])
    return {"sum": totals + 1, "mean": totals, "sqrtn": np.sqrt(totals)}[combiner]


def brute_force(rows, places, segments, weights, combiner):
    combined, by = np.zeros([BAGS, rows.shape[1]]), divisors(segments, weights, combiner)
    for place, segment, weight in zip(places, segments, weights, strict=True):
        if by[segment]:
            combined[segment] += weight * rows[place] / by[segment]
    return combined


def example(rng, elements, dim):
    rows = rng.normal(size=[ROWS, dim]).astype(np.float32)
    places = rng.integers(0, ROWS, elements).astype(np.int32)
    segments = np.sort(rng.integers(0, BAGS, elements))
    return rows, places, segments, rng.normal(1.5, 0.3, elements).astype(np.float32)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize(("elements", "dim"), [(0, 3), (1, 1), (200, 16), (200, 37), (20_000, 10)])
def test_equals_brute_force(way, rng, elements, dim, combiner, weighted):
    rows, places, segments, weights = example(rng, elements, dim)
    got = combine_rows(rows, places, Pooling(segments, BAGS, combiner, weights if weighted else None))
    expected = brute_force(rows, places, segments, weights if weighted else np.ones(elements), combiner)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3 if elements > 1000 else 1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("combiner", COMBINERS)
def test_gradients_are_those_of_tf_nn(way, rng, combiner, weighted):
    rows, places, segments, weights = (tf.constant(part) for part in example(rng, 60, 5))
    sparse = tf.RaggedTensor.from_value_rowids(places, segments, BAGS).to_sparse()
    upstream = rng.normal(size=[BAGS, 5]).astype(np.float32)

    @tf.function
    def gradients(combine):
        with tf.GradientTape() as tape:
            tape.watch([rows, weights])
            loss = tf.reduce_sum(combine() * upstream)
        return tape.gradient(loss, [rows, weights])

    pooling = Pooling(segments, BAGS, combiner, weights if weighted else None)
    ours = gradients(lambda: combine_rows(rows, places, pooling))
    given = tf.SparseTensor(sparse.indices, weights, sparse.dense_shape) if weighted else None
    theirs = gradients(lambda: tf.nn.safe_embedding_lookup_sparse(rows, sparse, given, combiner))
    assert isinstance(ours[0], tf.Tensor)
    np.testing.assert_allclose(ours[0], tf.convert_to_tensor(theirs[0]), rtol=1e-4, atol=1e-5)
    if weighted:
        np.testing.assert_allclose(ours[1], tf.convert_to_tensor(theirs[1]), rtol=1e-4, atol=1e-5)
    else:
        assert ours[1] is theirs[1] is None


@pytest.mark.parametrize("combiner", COMBINERS)
def test_weights_of_nothing_give_nothing(way, combiner):
    rows, weights = tf.ones([2, 3]), tf.zeros([2])
    with tf.GradientTape() as tape:
        tape.watch([rows, weights])
        combined = combine_rows(rows, [0, 1], Pooling(tf.constant([0, 0], tf.int64), 2, combiner, weights))
    for_rows, for_weights = tape.gradient(combined, [rows, weights])
    assert not combined.numpy().any() and not for_rows.numpy().any()
    np.testing.assert_array_equal(for_weights, [3, 3] if combiner == "sum" else [0, 0])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize(
    ("places", "segments"), [([0, -1], [0, 1]), ([0, 5], [0, 1]), ([0, 1], [1, 0]), ([0, 1], [0, 3]), ([0, 1], [-1, 0])]
)
def test_what_is_out_of_range_or_order_is_an_error(way, places, segments, combiner, weighted):
    pooling = Pooling(tf.constant(segments, tf.int64), 3, combiner, [1.0, 1.0] if weighted else None)
    with pytest.raises(tf.errors.InvalidArgumentError):
        combine_rows(tf.ones([5, 2]), places, pooling)


def test_rows_of_no_elements_cost_nothing_however_many_bags(monkeypatch):
    monkeypatch.delenv("TFPS_DISABLE_OPS", raising=False)
    pooling = Pooling(tf.constant([], tf.int64), tf.constant(2**40, tf.int64), "sum", None)
    assert combine_rows(tf.zeros([1, 0]), tf.constant([], tf.int32), pooling).shape == (2**40, 0)


@pytest.mark.parametrize("combiner", COMBINERS)
def test_nor_do_their_weights_gradients(monkeypatch, combiner):
    monkeypatch.delenv("TFPS_DISABLE_OPS", raising=False)
    assert library.available()
    pooling = Pooling(tf.constant([0, 0, 2**39], tf.int64), tf.constant(2**40, tf.int64), combiner, tf.ones([3]))
    gradients = combine_weights_gradient(tf.zeros([2**40, 0]), tf.zeros([5, 0]), tf.constant([0, 4, 1]), pooling)
    np.testing.assert_array_equal(gradients, [0, 0, 0])


def test_other_dtypes_and_gathered_results(way, rng):
    rows, places, segments, weights = example(rng, 50, 4)
    double = tf.constant(rows, tf.float64)
    pooling = Pooling(segments, BAGS, "mean", weights)
    with tf.GradientTape() as tape:
        tape.watch(double)
        combined = combine_rows(double, places, pooling)
        picked = tf.gather(combined, [3, 3, 1])  # the gradient of this is IndexedSlices
    assert combined.dtype == tf.float64
    np.testing.assert_allclose(combined, brute_force(rows, places, segments, weights, "mean"), rtol=1e-6)
    gradient = tape.gradient(picked, double).numpy()
    np.testing.assert_allclose(gradient.sum(), 3 * 4, rtol=1e-6)  # the shares of a bag come to 1 in each column


def test_a_combiner_that_is_none():
    with pytest.raises(ConfigError, match="one of 'mean', 'sqrtn', 'sum'. Received: 'max'"):
        Pooling([0], 1, "max")
