"""Malformed tensors and attributes give an error, never a crash: each case here would end this very process."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tfps.ops import library
from tfps.ops.row_rules import ROW_RULES

SHAPES = [(), (0,), (1,), (2,), (3,), (7,), (50,), (2, 2), (3, 0), (1, 4, 2)]
INTEGERS = [-(2**63), -(2**40), -1, 0, 1, 2, 3, 4, 5, 7, 2**31, 2**40, 2**62, 2**63 - 1]


def integers(rng, dtype=np.int64):
    shape = SHAPES[rng.integers(len(SHAPES))]
    small = rng.random() < 0.7
    values = rng.integers(-1, 5, shape) if small else rng.choice(INTEGERS, shape)
    return tf.constant(np.asarray(values).astype(dtype))


def floats(rng):
    return tf.constant(rng.normal(size=SHAPES[rng.integers(len(SHAPES))]), tf.float32)


@functools.cache
def resources():
    """Tables that fit, variables that do not, another resource; made in a test, when the devices are settled."""
    tables = [tf.Variable(tf.ones([4, 2])) for _ in range(6)]
    misfits = [tf.zeros([4, 3]), tf.zeros([4]), tf.zeros([0, 2]), tf.zeros([4, 2], tf.float64)]
    return (
        tables,
        [tf.Variable(value) for value in misfits],
        tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, 0),
    )


def handle(rng):
    """The handle of a table that fits; or of another variable, of another resource, of nothing; or no scalar."""
    tables, misfits, hash_table = resources()
    if rng.random() < 0.9:
        return tables[rng.integers(len(tables))].handle
    others = [
        *(variable.handle for variable in misfits),
        tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[4, 2], shared_name="nothing"),
        hash_table.resource_handle,
        tf.stack([tables[0].handle, tables[1].handle]),
    ]
    return others[rng.integers(len(others))]


def request(rng, tables):
    """A request that fits tables of 4 rows, and then, half the time, one element of it anything."""
    counts = rng.integers(0, 4, tables)
    elements = np.concatenate([counts, *(rng.permutation(4)[:count] for count in counts)]).astype(np.int64)
    if rng.random() < 0.5:
        elements[rng.integers(len(elements))] = rng.choice(INTEGERS)
    return tf.constant(elements)


def attempt(call):
    """Runs an op; an error that TensorFlow raises is as good as a result."""
    try:
        call()
    except (tf.errors.OpError, ValueError, TypeError) as error:
        return str(error)
    return None


def route_case(rng, ops):
    """Attributes that fit, and half the time one element of one of them anything, or one too few."""
    tables = int(rng.integers(1, 4))
    shards = [int(rng.integers(1, 4)) for _ in range(tables)]
    lists = {
        "rows": [5] * tables,
        "shards": shards,
        "multipliers": [3] * tables,
        "offsets": [1] * tables,
        "servers": [int(server) for server in rng.integers(0, 2, sum(shards))],
    }
    if rng.random() < 0.5:
        wrong = lists[str(rng.choice(list(lists)))]
        wrong[rng.integers(len(wrong))] = int(rng.choice(INTEGERS))
        wrong[:] = wrong[: len(wrong) - int(rng.random() < 0.2)]
    kinds = [str(rng.choice(["div", "mod", "hash", "none"], p=[0.33, 0.33, 0.33, 0.01])) for _ in range(tables)]
    ids = [tf.constant(rng.integers(0, 5, [20])) if rng.random() < 0.7 else integers(rng) for _ in range(tables)]
    return lambda: ops.tfps_route_unique(ids=ids, num_servers=2, tables=["t"] * tables, kinds=kinds, **lists)


def gather_case(rng, ops):
    tables = [handle(rng) for _ in range(rng.integers(1, 4))]
    wanted = request(rng, len(tables)) if rng.random() < 0.7 else integers(rng)
    return lambda: ops.tfps_gather_rows(tables=tables, request=wanted, dim=int(rng.choice([2, 2, 2, 1, 3])))


def apply_case(rng, ops):
    rule = ROW_RULES[str(rng.choice(list(ROW_RULES)))]
    tables = int(rng.integers(1, 4))
    variables = [handle(rng) for _ in range(tables * (1 + len(rule.slots)) + int(rng.random() < 0.1))]
    message = floats(rng)
    if rng.random() < 0.8:
        wanted = request(rng, tables)
        gradients = tf.ones([2 * (len(wanted) - tables) + int(rng.random() < 0.1)])
        bits = tf.reshape(tf.bitcast(wanted, tf.float32), [-1])
        message = tf.concat([tf.ones([len(rule.hyperparameters) + 1]), bits, gradients], 0)
    name = rule.name if rng.random() < 0.9 else "none"
    return lambda: ops.tfps_apply_rows(variables=variables, message=message, tables=tables, dim=2, rule=name)


def dense_case(rng, ops):
    rule = ROW_RULES[str(rng.choice(list(ROW_RULES)))]
    count = int(rng.integers(1, 4))
    variables = [handle(rng) for _ in range(count * (1 + len(rule.slots)) + int(rng.random() < 0.1))]
    gradients = [tf.ones([4, 2]) if rng.random() < 0.9 else floats(rng) for _ in range(count)]
    hyper = tf.ones([len(rule.hyperparameters) + 1]) if rng.random() < 0.9 else floats(rng)
    name = rule.name if rng.random() < 0.9 else "none"
    return lambda: ops.tfps_apply_dense(variables=variables, gradients=gradients, hyperparameters=hyper, rule=name)


def segment_sum_case(rng, ops):
    inverse = [integers(rng, np.int32) for _ in range(rng.integers(1, 3))]
    gradients = [tf.ones([*i.shape, 2]) if rng.random() < 0.8 else floats(rng) for i in inverse]
    rows = tf.constant(rng.choice([-1, 0, 5, 5, 5, 2**62]), tf.int64) if rng.random() < 0.9 else tf.zeros([2], tf.int64)
    return lambda: ops.tfps_segment_sum_rows(gradients=gradients, inverse=inverse, num_rows=rows, dim=2)


def bags(rng):
    """Elements that fit 4 rows and 5 bags, and then, half the time, one tensor of them anything."""
    count = int(rng.integers(0, 9))
    tensors = {
        "places": tf.constant(rng.integers(0, 4, count), tf.int32),
        "segments": tf.constant(np.sort(rng.integers(0, 5, count))),
        "weights": tf.constant(rng.normal(size=count), tf.float32),
    }
    wrong = str(rng.choice(["places", "segments", "weights", "none"], p=[0.2, 0.2, 0.1, 0.5]))
    if wrong == "places":
        tensors[wrong] = integers(rng, np.int32)
    elif wrong == "segments":
        tensors[wrong] = integers(rng)
    elif wrong == "weights":
        tensors[wrong] = floats(rng)
    return tensors, str(rng.choice(["sum", "mean", "sqrtn"]))


def matrix(rng, rows):
    return tf.ones([rows, 2]) if rng.random() < 0.9 else floats(rng)


def count_of(rng, fits):
    if rng.random() < 0.1:
        return tf.zeros([2], tf.int64)
    return tf.constant(rng.choice([fits, fits, fits, fits, 0, -1, 2**62]), tf.int64)


def combine_case(rng, ops):
    tensors, combiner = bags(rng)
    weights = [tensors.pop("weights")] * int(rng.choice([0, 1, 1, 2], p=[0.3, 0.3, 0.3, 0.1]))
    if rng.random() < 0.5:
        given = {"rows": matrix(rng, 4), "num_segments": count_of(rng, 5)}
        return lambda: ops.tfps_combine_rows(weights=weights, combiner=combiner, **given, **tensors)
    given = {"gradients": matrix(rng, 5), "num_rows": count_of(rng, 4)}
    return lambda: ops.tfps_combine_rows_grad(weights=weights, combiner=combiner, **given, **tensors)


def combine_weights_case(rng, ops):
    tensors, combiner = bags(rng)
    given = {"gradients": matrix(rng, 5), "rows": matrix(rng, 4)}
    return lambda: ops.tfps_combine_weights_grad(combiner=combiner, **given, **tensors)


def draw_case(rng, ops):
    """Vectors that fit 4 rows, and half the time one of them anything."""
    tensors = {
        "positives": tf.constant(rng.integers(0, 4, rng.integers(0, 9))),
        "aliases": tf.constant(rng.integers(0, 2**31, 4) * 2**32 + rng.integers(0, 4, 4)),
        "seed": tf.constant(rng.choice(INTEGERS, 2)),
    }
    if rng.random() < 0.5:
        tensors[str(rng.choice(list(tensors)))] = integers(rng)
    rows = int(rng.choice([4, 4, 4, 4, 1, 2**40]))
    return lambda: ops.tfps_draw_targets(rows=rows, negatives=int(rng.choice([1, 3, 3, 0])), **tensors)


def pairs_case(rng, ops):
    """Pairs that fit 4 rows, and half the time one tensor of them anything."""
    rule = str(rng.choice(["sgd", "adagrad", "adagrad", "adam"], p=[0.45, 0.25, 0.25, 0.05]))
    count, slots = int(rng.integers(0, 9)), int(rule != "sgd")
    tensors = {
        "centers": tf.constant(rng.integers(0, 4, count), tf.int32),
        "targets": tf.constant(rng.integers(0, 4, [count, rng.integers(0, 4)]), tf.int32),
        "hyperparameters": tf.ones([2 + slots]),
    }
    wrong = str(rng.choice(["centers", "targets", "hyperparameters", "none"], p=[0.2, 0.2, 0.1, 0.5]))
    if wrong != "none":
        tensors[wrong] = floats(rng) if wrong == "hyperparameters" else integers(rng, np.int32)
    matrices = [matrix(rng, 4) for _ in range(1 + slots + int(rng.random() < 0.1))]
    return lambda: ops.tfps_train_pairs(rows=matrices, rule=rule, **tensors)


def groups_case(rng, ops):
    """Groups that fit 4 rows, and half the time one tensor of them anything."""
    sizes = rng.integers(0, 4, rng.integers(0, 5))
    tensors = {
        "centers": tf.constant(rng.integers(0, 4, sizes.sum()), tf.int32),
        "sizes": tf.constant(sizes, tf.int32),
        "targets": tf.constant(rng.integers(0, 4, [len(sizes), rng.integers(0, 4)]), tf.int32),
        "hyperparameters": tf.ones([2]),
    }
    if rng.random() < 0.5:
        wrong = str(rng.choice(list(tensors)))
        tensors[wrong] = floats(rng) if wrong == "hyperparameters" else integers(rng, np.int32)
    return lambda: ops.tfps_train_groups(rows=[matrix(rng, 4)], rule="sgd", **tensors)


def touched_case(rng, ops):
    """A variable of which the last of the test was perhaps watched, and any cursor."""
    variable = handle(rng)
    if rng.random() < 0.3:
        return lambda: ops.tfps_watch_rows(variable=variable)
    cursor = tf.constant(rng.choice(INTEGERS)) if rng.random() < 0.5 else integers(rng)
    return lambda: ops.tfps_touched_rows(variable=variable, cursor=cursor)


def scan_case(rng, ops):
    """A table with perhaps a slot, perhaps of other rows, and any cursor."""
    variables = [handle(rng) for _ in range(int(rng.choice([1, 2, 2, 5], p=[0.4, 0.2, 0.3, 0.1])))]
    cursor = tf.constant(rng.choice(INTEGERS)) if rng.random() < 0.8 else integers(rng)
    most = int(rng.choice([1, 3, 2**40, 0], p=[0.3, 0.3, 0.3, 0.1]))
    return lambda: ops.tfps_scan_rows(variables=variables, cursor=cursor, dim=int(rng.choice([2, 2, 3])), max_rows=most)


CASES = [
    route_case,
    gather_case,
    apply_case,
    dense_case,
    segment_sum_case,
    combine_case,
    combine_weights_case,
    draw_case,
    pairs_case,
    groups_case,
    touched_case,
    scan_case,
]


@pytest.mark.parametrize("case", CASES)
def test_malformed_input_is_an_error_not_a_crash(case):
    rng = np.random.default_rng(4)
    ops = library.load()
    results = [attempt(case(rng, ops)) for _ in range(400)]
    failed = [message for message in results if message is not None]
    # Were all cases refused, or all by one check, this would test little.
    assert 0.1 < len(failed) / len(results) < 0.95
    assert len({message[-40:] for message in failed}) > 5
