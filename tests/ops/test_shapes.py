"""Shape functions, by a table of what fits and what does not."""

import pytest
import tensorflow as tf

from tfps.ops import library


def placeholder(dtype, shape):
    return tf.compat.v1.placeholder(dtype, shape)


def handle(shape=()):
    return placeholder(tf.resource, shape)


def route(ids, **changes):
    attributes = {
        "num_servers": 2,
        "tables": ["a"] * len(ids),
        "kinds": ["mod"] * len(ids),
        "rows": [10] * len(ids),
        "shards": [1] * len(ids),
        "multipliers": [0] * len(ids),
        "offsets": [0] * len(ids),
        "servers": [0] * len(ids),
    }
    routed = library.load().tfps_route_unique(ids=[placeholder(tf.int64, i) for i in ids], **{**attributes, **changes})
    return [*routed.requests, routed.unique_ids, routed.table_order, routed.table_sizes, *routed.inverse]


def gather(request, handles=((), ()), dim=4):
    tables = [handle(h) for h in handles]
    return [library.load().tfps_gather_rows(tables=tables, request=placeholder(tf.int64, request), dim=dim)]


def apply(message, handles=((), ())):
    variables = [handle(h) for h in handles]
    library.load().tfps_apply_rows(
        variables=variables, message=placeholder(tf.float32, message), tables=1, dim=4, rule="adagrad"
    )
    return []


def dense(hyper, handles=((), ())):
    library.load().tfps_apply_dense(
        variables=[handle(h) for h in handles],
        gradients=[placeholder(tf.float32, None)],
        hyperparameters=placeholder(tf.float32, hyper),
        rule="adagrad",
    )
    return []


def segment_sum(gradients, inverse, rows=None, dim=4):
    return [
        library.load().tfps_segment_sum_rows(
            gradients=[placeholder(tf.float32, g) for g in gradients],
            inverse=[placeholder(tf.int32, i) for i in inverse],
            num_rows=placeholder(tf.int64, ()) if rows is None else rows,
            dim=dim,
        )
    ]


def combine(rows, places, segments, weights=(), count=None):
    return [
        library.load().tfps_combine_rows(
            rows=placeholder(tf.float32, rows),
            places=placeholder(tf.int32, places),
            segments=placeholder(tf.int64, segments),
            num_segments=placeholder(tf.int64, ()) if count is None else count,
            weights=[placeholder(tf.float32, w) for w in weights],
            combiner="mean",
        )
    ]


def combine_grad(gradients, places, segments, weights=(), count=None):
    return [
        library.load().tfps_combine_rows_grad(
            gradients=placeholder(tf.float32, gradients),
            places=placeholder(tf.int32, places),
            segments=placeholder(tf.int64, segments),
            num_rows=placeholder(tf.int64, ()) if count is None else count,
            weights=[placeholder(tf.float32, w) for w in weights],
            combiner="mean",
        )
    ]


def combine_weights_grad(gradients, rows, places, segments, weights, combiner="sum"):
    return [
        library.load().tfps_combine_weights_grad(
            gradients=placeholder(tf.float32, gradients),
            rows=placeholder(tf.float32, rows),
            places=placeholder(tf.int32, places),
            segments=placeholder(tf.int64, segments),
            weights=placeholder(tf.float32, weights),
            combiner=combiner,
        )
    ]


def draw(positives, aliases=(None,), seed=(2,), negatives=5):
    return [
        library.load().tfps_draw_targets(
            positives=placeholder(tf.int64, positives),
            aliases=placeholder(tf.int64, aliases),
            seed=placeholder(tf.int64, seed),
            rows=9,
            negatives=negatives,
        )
    ]


def train(rows, centers, targets, hyper=(3,)):
    trained = library.load().tfps_train_pairs(
        rows=[placeholder(tf.float32, r) for r in rows],
        centers=placeholder(tf.int32, centers),
        targets=placeholder(tf.int32, targets),
        hyperparameters=placeholder(tf.float32, hyper),
        rule="adagrad",
    )
    return [*trained.deltas, trained.loss]


def train_groups(rows, centers, sizes, targets, hyper=(2,)):
    trained = library.load().tfps_train_groups(
        rows=[placeholder(tf.float32, r) for r in rows],
        centers=placeholder(tf.int32, centers),
        sizes=placeholder(tf.int32, sizes),
        targets=placeholder(tf.int32, targets),
        hyperparameters=placeholder(tf.float32, hyper),
        rule="sgd",
    )
    return [*trained.deltas, trained.loss]


def touched(variable, cursor):
    found = library.load().tfps_touched_rows(variable=handle(variable), cursor=placeholder(tf.int64, cursor))
    return [found.rows, found.next_cursor]


def watch(variable):
    library.load().tfps_watch_rows(variable=handle(variable))
    return []


def scan(cursor, handles=((), ())):
    chunk = library.load().tfps_scan_rows(
        variables=[handle(h) for h in handles], cursor=placeholder(tf.int64, cursor), dim=4, max_rows=9
    )
    return [chunk.keys, *chunk.rows, chunk.next_cursor]


def parsed(text=(), fields=(None,), widths=(0, 2), dtypes=(tf.float32, tf.int64)):
    found = library.load().tfps_parse_lines(
        text=placeholder(tf.string, text),
        fields=placeholder(tf.int32, fields),
        dtypes=dtypes,
        widths=widths,
        outputs=[0, 1, 1],
        buckets=[0, 9, 9],
        prefixes=[""] * 3,
        required=[True] * 3,
        defaults=[""] * 3,
        delimiter=",",
        has_quotes=True,
    )
    return [found.parsed, *found.values]


def split(bytes=()):
    found = library.load().tfps_split_records(bytes=placeholder(tf.string, bytes))
    return [found.valid, found.records, found.end]


def find_cached(ids, requests=((4,),), dim=4):
    found = library.load().tfps_find_cached_rows(
        cache=handle(),
        ids=placeholder(tf.int64, ids),
        requests=[placeholder(tf.int64, r) for r in requests],
        dim=dim,
        pieces=[1] * len(requests),
        tables=[0] * len(requests),
    )
    return [*found.remaining, found.rows, found.missing, found.moment]


def store_cached(rows, missing, fetched, ids=(3,), moment=(2,)):
    answer = library.load().tfps_store_cached_rows(
        cache=handle(),
        ids=placeholder(tf.int64, ids),
        requests=[placeholder(tf.int64, [4])],
        rows=placeholder(tf.float32, rows),
        missing=placeholder(tf.int32, missing),
        moment=placeholder(tf.int64, moment),
        fetched=placeholder(tf.float32, fetched),
        pieces=[1],
        tables=[0],
    )
    return [answer]


def open_cached(version, shape=(), max_missed=()):
    numbers = {"version": placeholder(tf.int64, version), "max_missed": placeholder(tf.int64, max_missed)}
    library.load().tfps_open_row_cache(cache=handle(shape), rows=1, max_staleness=1, **numbers)
    return []


V = [None]
FITS = [
    (lambda: route([[3, 2], None]), [V, V, V, V, [2], [3, 2], None]),
    (lambda: route([[]]), [V, V, V, V, [1], []]),
    (lambda: gather([7]), [[5, 4]]),
    (lambda: gather([2]), [[0, 4]]),
    (lambda: gather([None]), [[None, 4]]),
    (lambda: gather(None, handles=(None, ())), [[None, 4]]),
    (lambda: apply([None]), []),
    (lambda: apply(None), []),
    (lambda: dense([3]), []),
    (lambda: dense(None), []),
    (lambda: segment_sum([[3, 2, 4]], [[3, 2]]), [[None, 4]]),
    (lambda: segment_sum([None, [4]], [None, []], rows=9), [[9, 4]]),
    (lambda: segment_sum([[3, None]], [[None]], rows=0), [[0, 4]]),
    (lambda: combine([5, 4], [7], [None], [[7]]), [[None, 4]]),
    (lambda: combine(None, None, None, count=9), [[9, None]]),
    (lambda: combine_grad([5, 4], [7], [None], [[7]], count=0), [[0, 4]]),
    (lambda: combine_weights_grad([5, 4], [9, None], [None], [7], None), [[7]]),
    (lambda: combine_weights_grad(None, None, None, None, None), [[None]]),
    (lambda: draw([7]), [[7, 6]]),
    (lambda: draw(None, None, None, 1), [[None, 2]]),
    (lambda: train([[5, 4], [None, 4]], [7], [None, 6]), [[5, 4], [5, 4], []]),
    (lambda: train([None], None, None, None), [[None, None], []]),
    (lambda: train_groups([[5, 4]], [9], [7], [7, 6]), [[5, 4], []]),
    (lambda: train_groups([None], None, None, None, None), [[None, None], []]),
    (lambda: watch(()), []),
    (lambda: touched((), ()), [V, []]),
    (lambda: touched(None, None), [V, []]),
    (lambda: scan(()), [V, [None, 4], [None, None], []]),
    (lambda: scan(None, handles=(None,)), [V, [None, 4], []]),
    (lambda: parsed(), [[], V, [None, 2]]),
    (lambda: parsed(text=None, fields=None), [[], V, [None, 2]]),
    (lambda: split(), [[], V, []]),
    (lambda: split(None), [[], V, []]),
    (lambda: find_cached([3], ([4], None)), [V, V, [3, 4], V, [2]]),
    (lambda: store_cached([3, 4], [2], [2, 4]), [[3, 4]]),
    (lambda: store_cached(None, None, [None, 4], None), [[None, 4]]),
    (lambda: open_cached(()), []),
]
FAILS = [
    (lambda: parsed(text=[1]), "must be rank 0"),
    (lambda: split([1]), "must be rank 0"),
    (lambda: parsed(fields=[3, 1]), "must be rank 1"),
    (lambda: parsed(widths=[0]), "must have one for each output"),
    (lambda: parsed(widths=[0, -1]), "must be at least 0"),
    (lambda: watch([2]), "must be rank 0"),
    (lambda: touched([2], ()), "must be rank 0"),
    (lambda: touched((), [1]), "must be rank 0"),
    (lambda: scan([1]), "must be rank 0"),
    (lambda: scan((), handles=((), [2])), "must be rank 0"),
    (lambda: gather([1]), "Negative dimension size"),
    (lambda: gather([]), "must be rank 1"),
    (lambda: gather([3, 3]), "must be rank 1"),
    (lambda: gather([3], handles=([1], ())), "must be rank 0"),
    (lambda: gather([3], handles=()), "shorter than minimum length 1"),
    (lambda: gather([3], dim=0), "less than minimum 1"),
    (lambda: apply([3, 3]), "must be rank 1"),
    (lambda: apply([3], handles=([2], ())), "must be rank 0"),
    (lambda: dense([3, 1]), "must be rank 1"),
    (lambda: dense([3], handles=([2], ())), "must be rank 0"),
    (lambda: segment_sum([[3, 2, 4]], [[3, 3]]), "must be equal"),
    (lambda: segment_sum([[3, 5]], [[3]]), "must be equal"),
    (lambda: segment_sum([[3]], [[3]]), "must be equal rank"),
    (lambda: segment_sum([[3, 4]], [[3]], rows=-1), "must be non-negative|Dimension"),
    (lambda: combine([5], [7], [7]), "must be rank 2"),
    (lambda: combine([5, 4], [7], [6]), "must be equal"),
    (lambda: combine([5, 4], [7], [7], [[8]]), "must be equal"),
    (lambda: combine([5, 4], [7, 1], [7]), "must be equal rank|same rank"),
    (lambda: combine([5, 4], [7], [7], count=-1), "must be non-negative|Dimension"),
    (lambda: combine_grad([5, 4, 3], [7], [7]), "must be rank 2"),
    (lambda: combine_weights_grad([5, 4], [9, 3], [7], [7], [7]), "must be equal"),
    (lambda: combine_weights_grad([5, 4], [9, 4], [7], [7], [7], "max"), "max. not in"),
    (lambda: draw([7, 1]), "must be rank 1"),
    (lambda: draw([7], [9, 1]), "must be rank 1"),
    (lambda: draw([7], seed=[3]), "must be 2"),
    (lambda: draw([7], negatives=0), "less than minimum 1"),
    (lambda: train([[5, 4], [6, 4]], [7], [7, 6]), "must be equal"),
    (lambda: train([[5]], [7], [7, 6]), "must be rank 2|same rank|equal rank"),
    (lambda: train([[5, 4]], [7], [8, 6]), "must be equal"),
    (lambda: train([[5, 4]], [7, 1], [7, 6]), "must be rank 1"),
    (lambda: train([[5, 4]], [7], [7]), "must be rank 2"),
    (lambda: train([[5, 4]], [7], [7, 6], []), "must be rank 1"),
    (lambda: train_groups([[5, 4]], [9], [7], [8, 6]), "must be equal"),
    (lambda: train_groups([[5, 4]], [9, 1], [7], [7, 6]), "must be rank 1"),
    (lambda: train_groups([[5, 4]], [9], [7, 1], [7, 6]), "must be rank 1"),
    (lambda: train_groups([[5, 4]], [9], [7], [7]), "must be rank 2"),
    (lambda: train_groups([[5]], [9], [7], [7, 6]), "must be rank 2|same rank|equal rank"),
    (lambda: train_groups([[5, 4]], [9], [7], [7, 6], []), "must be rank 1"),
    (lambda: find_cached([3, 1]), "must be rank 1"),
    (lambda: find_cached([3], ([4, 1],)), "must be rank 1"),
    (lambda: find_cached([3], dim=0), "less than minimum 1"),
    (lambda: store_cached([2, 4], [2], [2, 4]), "must be equal"),
    (lambda: store_cached([3, 4], [2], [1, 4]), "must be equal"),
    (lambda: store_cached([3, 4], [2], [2, 5]), "must be equal"),
    (lambda: store_cached([3], [2], [2, 4]), "must be rank 2"),
    (lambda: open_cached([1]), "must be rank 0"),
    (lambda: open_cached((), [1]), "must be rank 0"),
    (lambda: open_cached((), max_missed=[1]), "must be rank 0"),
]


@pytest.mark.parametrize(("build", "expected"), FITS)
def test_shapes_that_fit(build, expected):
    with tf.Graph().as_default():
        shapes = [tensor.shape for tensor in build()]
    assert [None if s.rank is None else s.as_list() for s in shapes] == expected


@pytest.mark.parametrize(("build", "message"), FAILS)
def test_shapes_that_do_not_fit(build, message):
    with tf.Graph().as_default(), pytest.raises(ValueError, match=message):
        build()
