"""Rows and requests in fewer bytes, and error feedback: C++ and TensorFlow's own ops against numpy and each other."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tfps.ops.error_store import encode_with_errors
from tfps.ops.request_codec import decode_request, encode_request
from tfps.ops.row_codec import coded_floats, decode_rows, encode_rows
from tfps.ops.row_request import REPEATS

CODECS = ["bfloat16", "int8"]


def rows_of(rng, count, dim):
    """Rows of very different sizes, with zeros, tiny and huge numbers among them."""
    rows = rng.normal(size=[count, dim]) * 10.0 ** rng.integers(-8, 8, [count, 1])
    rows[rng.random([count, dim]) < 0.05] = 0.0
    return rows.astype(np.float32)


def round_trip(rows, codec, stochastic=False):
    coded = encode_rows(tf.constant(rows), codec, stochastic)
    assert coded.shape == [coded_floats(*rows.shape, codec)]
    return decode_rows(coded, len(rows), rows.shape[1], codec).numpy()


def one_way(monkeypatch, disabled, call):
    monkeypatch.setenv("TFPS_DISABLE_OPS", "1") if disabled else monkeypatch.delenv("TFPS_DISABLE_OPS", raising=False)
    return call()


@pytest.mark.parametrize("dim", [1, 4, 7, 16, 33])
def test_rows_are_rounded_to_the_nearest(way, rng, dim):
    rows = rows_of(rng, 500, dim)
    np.testing.assert_array_equal(round_trip(rows, "bfloat16"), tf.cast(tf.cast(rows, tf.bfloat16), tf.float32))
    scale = np.abs(rows).max(1, keepdims=True) / 127
    # The scale has 8 bits, and is rounded up.
    assert (np.abs(round_trip(rows, "int8") - rows) <= scale * 1.01 / 2 + 1e-37).all()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("stochastic", [False, True])
def test_both_ways_give_the_same_bits(monkeypatch, rng, codec, stochastic):
    rows = rows_of(rng, 1000, 19)
    rows[rng.random(rows.shape) < 0.01] = np.nan
    rows[rng.random(rows.shape) < 0.01] = np.inf
    rows[rng.random(rows.shape) < 0.01] = -np.inf
    # Not smaller: the scale of a row of 1e-37 is no normal number, and threads differ in whether they round those to 0.
    rows[0], rows[1, 0], rows[2], rows[3] = 1e-35, np.finfo(np.float32).max, 0.0, -1e-35
    coded = [
        one_way(monkeypatch, disabled, lambda: encode_rows(tf.constant(rows), codec, stochastic)) for disabled in (0, 1)
    ]
    np.testing.assert_array_equal(*(one.numpy().view(np.uint32) for one in coded))
    read = [one_way(monkeypatch, disabled, lambda: decode_rows(coded[0], 1000, 19, codec)) for disabled in (0, 1)]
    np.testing.assert_array_equal(*(one.numpy().view(np.uint32) for one in read))
    assert (np.isfinite(read[0]) == np.isfinite(rows)).all()


@pytest.mark.parametrize("codec", CODECS)
def test_stochastic_rounding_is_exact_in_the_mean(way, rng, codec):
    rows = np.tile(rng.normal(size=8).astype(np.float32), [20_000, 1])
    rounded = round_trip(rows, codec, stochastic=True)
    step = np.abs(rows[0]).max() / 127 if codec == "int8" else np.abs(rows[0]) / 128
    assert (np.abs(rounded - rows) <= 1.01 * step).all()
    np.testing.assert_allclose(rounded.mean(0), rows[0], atol=0, rtol=0.02 if codec == "int8" else 1e-4)
    # What is exact stays exact: small integers, and powers of two.
    exact = np.array([[127, -3, 0, 64]], np.float32)
    np.testing.assert_array_equal(round_trip(exact, codec, stochastic=True), exact)


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("limit", [1, 200, 60_000, 1 << 24, 1 << 61])
def test_requests_take_the_bytes_that_they_need(way, rng, limit, marked):
    counts = np.array([3, 0, 70, 1])
    rows = rng.integers(0, limit, 74)
    marks = np.where(rng.random(74) < 0.3, REPEATS, 0) if marked else 0
    request = np.concatenate([counts, rows + marks])
    coded = encode_request(tf.constant(request), 4, marked)
    np.testing.assert_array_equal(decode_request(coded, 4, marked), request)
    width = max(1, (int(limit - 1).bit_length() + 7) // 8)
    assert 4 * coded.shape[0] <= 4 * 5 + 74 * width + (10 if marked else 0) + 4


def test_any_id_can_be_requested(monkeypatch, rng):
    request = np.concatenate([[2, 3], rng.integers(-(1 << 63), 1 << 63, 5)])
    coded = [one_way(monkeypatch, disabled, lambda: encode_request(tf.constant(request), 2)) for disabled in (0, 1)]
    np.testing.assert_array_equal(*(one.numpy().view(np.uint32) for one in coded))
    for disabled in (0, 1):
        read = one_way(monkeypatch, disabled, lambda: decode_request(coded[0], 2))
        np.testing.assert_array_equal(read, request)


def test_messages_that_do_not_fit_are_refused(way, rng):
    request = encode_request(tf.constant([2, 1, 7, 300, 5], tf.int64), 2)
    rows = encode_rows(tf.ones([3, 5]), "int8", False)
    for bad in (request[:-1], request[:1], tf.concat([request, [0.0]], 0), tf.zeros([0]), tf.fill([40], np.nan)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode_request(bad, 2)
    for count in (2, 4, -1, 1 << 40):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode_rows(rows, count, 5, "int8")
    with pytest.raises(tf.errors.InvalidArgumentError):
        encode_request(tf.constant([3, 7], tf.int64), 1)


class Store:
    """A store of errors of its own."""

    def __init__(self, places_log2, dim, name):
        self.places_log2 = places_log2
        self.handles = [
            tf.raw_ops.VarHandleOp(dtype=dtype, shape=shape, shared_name=f"{name}_{dtype.name}")
            for dtype, shape in ((tf.int64, [1 << places_log2]), (tf.float32, [1 << places_log2, dim]))
        ]

    def push(self, request, rows, pieces, codec="int8", marked=False):
        request = tf.constant(request, tf.int64)
        coded = encode_with_errors(self.handles, self.places_log2, request, tf.constant(rows), pieces, codec, marked)
        return decode_rows(coded, len(rows), rows.shape[1], codec).numpy()

    def end(self):
        for handle in self.handles:
            tf.raw_ops.DestroyResourceOp(resource=handle)


@pytest.fixture
def store(request):
    made = []

    def make(places_log2, dim):
        made.append(Store(places_log2, dim, f"{request.node.name}_{len(made)}"))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_sent_sums_up_to_what_was_meant(way, rng, store, codec):
    errors, meant, sent = store(16, 6), np.zeros([40, 6]), np.zeros([40, 6])
    for step in range(60):
        rows = rng.permutation(40)[:20]
        # One large element in each row: the others are below half a step, and would never arrive.
        gradients = np.full([20, 6], 0.002, np.float32) * rng.normal(1, 0.1, [20, 6]).astype(np.float32)
        gradients[:, 0] = (-1.0) ** step
        counts = [np.sum(rows < 25), np.sum(rows >= 25)]
        rows = np.sort(rows)
        local = np.where(rows < 25, rows, rows - 25)
        got = errors.push([*counts, *local], gradients, 2, codec)
        meant[rows] += gradients
        sent[rows] += got
    step = 1.02 / 127 * 1.1 if codec == "int8" else 1.1 / 128
    assert np.abs(sent - meant).max() <= step
    assert np.abs(meant).min(0)[1:].min() > step


def test_both_ways_keep_the_same_errors(monkeypatch, rng, store):
    # 16 places for 60 rows: most pushes take places from others.
    stores = [store(4, 5), store(4, 5)]
    for _ in range(8):
        rows = rng.permutation(60)[:30]
        request = [30, *(rows + np.where(rng.random(30) < 0.5, REPEATS, 0))]
        gradients = rows_of(rng, 30, 5)
        gradients[3, 2] = np.nan
        push = functools.partial(Store.push, request=request, rows=gradients, pieces=1, marked=True)
        sent = [one_way(monkeypatch, way, functools.partial(push, one)) for way, one in enumerate(stores)]
        np.testing.assert_array_equal(*(one.view(np.uint32) for one in sent))


def test_a_row_that_is_not_finite_leaves_no_error(way, store):
    errors = store(6, 4)
    bad = np.array([[1.0, np.nan, 0.3, np.inf]], np.float32)
    first = errors.push([1, 9], bad, 1)
    assert np.isnan(first[0, [1, 3]]).all() and np.isfinite(first[0, [0, 2]]).all()
    assert np.isfinite(errors.push([1, 9], np.zeros([1, 4], np.float32), 1)).all()


def test_rows_that_share_a_place_are_exact_in_the_mean(way, rng, store):
    # Two places for 50 rows: hardly any error is kept.
    errors, rows = store(1, 4), np.tile(np.array([[1.0, 0.003, 0.003, -0.003]], np.float32), [50, 1])
    sent = np.mean([errors.push([50, *range(50)], rows * (1 + 1e-4 * k), 1) for k in range(100)], (0, 1))
    np.testing.assert_allclose(sent[1:], [0.003, 0.003, -0.003], rtol=0.1)
