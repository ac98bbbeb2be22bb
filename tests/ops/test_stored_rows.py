"""Tables and slots of bfloat16: gathers, scans, updates and their rounding, in both forms of the ops."""

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.test_apply_rows import CASES, hyper_of
from tfps.errors import ConfigError
from tfps.ops.apply_rows import apply_rows, pack_update
from tfps.ops.gather_rows import gather_rows
from tfps.ops.row_rules import ROW_RULES
from tfps.ops.scan_rows import scan_rows
from tfps.ops.stored_rows import round_at_random
from tfps.ops.touched_rows import touched_rows, watch_rows

STEP = 2.0**-7
"""The step of bfloat16 between 1 and 2."""


def variable(values, dtype=tf.bfloat16):
    return tf.Variable(tf.cast(np.asarray(values, "float32"), dtype))


def floats(one):
    return tf.cast(one, tf.float32).numpy()


def update(rule, variables, gradients, hyper):
    request = tf.range(-1, len(gradients), dtype=tf.int64)  # the count, and then the rows 0, 1, ...
    request = tf.concat([[len(gradients)], request[1:]], 0)
    apply_rows(rule, [variables], pack_update(tf.constant(hyper, tf.float32), request, tf.constant(gradients)))


def test_a_gather_gives_the_stored_bits(way, rng):
    tables = [variable(rng.normal(size=[5, 3])), variable(rng.normal(size=[4, 3]))]
    rows = gather_rows(tables, tf.constant([2, 1, 4, 0, 3], tf.int64))
    assert rows.dtype == tf.bfloat16 and rows.shape == [3, 3]
    np.testing.assert_array_equal(
        floats(rows), np.stack([floats(tables[0])[4], floats(tables[0])[0], floats(tables[1])[3]])
    )


def test_a_scan_gives_floats(way, rng):
    table, wide, narrow = (
        variable(rng.normal(size=[6, 3])),
        variable(rng.normal(size=[6, 3])),
        variable(rng.normal(size=[6, 1]), tf.float32),
    )
    chunk = scan_rows([table, wide, narrow], 2, 3)
    assert [rows.dtype for rows in chunk.rows] == [tf.float32] * 3
    for rows, of in zip(chunk.rows, (table, wide, narrow), strict=True):
        np.testing.assert_array_equal(rows, floats(of)[2:5])


# Which parts are bfloat16: the rows, the slots, both.
@pytest.mark.parametrize(
    "rows, slots", [(tf.bfloat16, tf.float32), (tf.float32, tf.bfloat16), (tf.bfloat16, tf.bfloat16)]
)
@pytest.mark.parametrize("name", ROW_RULES)
def test_one_update_is_that_of_float32_but_for_its_rounding(way, rng, name, rows, slots):
    rule = ROW_RULES[name]
    start = [rng.normal(size=[40, 5]), *(rng.uniform(0.3, 0.5, size=[40, slot.width(5)]) for slot in rule.slots)]
    # Slots of which a rule may take the root of one less the square of another.
    narrow = [variable(value, rows if i == 0 else slots) for i, value in enumerate(start)]
    before = [floats(one) for one in narrow]
    wide = [variable(one, tf.float32) for one in before]
    gradients = rng.normal(size=[30, 5]).astype("float32")
    _, settings = CASES[name]
    hyper = hyper_of(rule, settings, step=3.0, decay=0.01)
    update(rule, narrow, gradients, hyper)
    update(rule, wide, gradients, hyper)
    for one, exact, old in zip(narrow, wide, before, strict=True):
        got, wanted = floats(one), exact.numpy()
        # One of the two neighbours: less than a step of bfloat16 away, which is 1/128 of a power of two at most. The
        # graph adds a delta, which has a rounding of its own.
        size = np.abs(wanted) if way == "library" else 2 * np.maximum(np.abs(wanted), np.abs(wanted - old))
        limit = size * STEP if one.dtype == tf.bfloat16 else size * 1e-5 + 1e-6
        assert (np.abs(got - wanted) <= limit).all()
        np.testing.assert_array_equal(got[30:], wanted[30:])


def test_small_updates_add_up_with_random_rounding_alone(way):
    """400 updates of 1/2048 move 1 by 0.195; to the nearest, each of them would be lost."""
    table, slow = variable(np.ones([50, 8])), variable(np.ones([50, 8]))
    gradients = np.full([50, 8], -1.0, "float32")
    for _ in range(400):
        update(ROW_RULES["sgd"], [table], gradients, [1 / 2048, 0.0])
        slow.assign(tf.cast(floats(slow) + 1 / 2048, tf.bfloat16))
    assert (floats(slow) == 1).all()
    # The 400 numbers each have a deviation of 0.037, so their mean has one of 0.002.
    assert floats(table).mean() == pytest.approx(1 + 400 / 2048, abs=0.01)
    assert len(np.unique(floats(table))) > 5


def test_a_row_that_does_not_change_keeps_its_bits(way, rng):
    table = variable(rng.normal(size=[9, 4]))
    before = floats(table)
    for _ in range(20):
        update(ROW_RULES["sgd"], [table], np.zeros([9, 4], "float32"), [0.1, 0.0])
    np.testing.assert_array_equal(floats(table), before)


def test_the_graph_rounds_to_a_neighbour_and_is_right_in_the_mean():
    drawn = floats(round_at_random(tf.fill([20_000], 1 + 0.25 * STEP)))
    assert set(np.unique(drawn)) == {np.float32(1), np.float32(1 + STEP)}
    # Five standard deviations of the mean.
    assert (drawn == 1).mean() == pytest.approx(0.75, abs=5 * np.sqrt(0.75 * 0.25 / 20_000))
    special = floats(round_at_random(tf.constant([np.inf, -np.inf, np.nan, 0.0, -2.0])))
    np.testing.assert_array_equal(special, [np.inf, -np.inf, np.nan, 0, -2])


def test_the_library_draws_the_same_in_every_run(rng):
    gradients = rng.normal(size=[7, 3]).astype("float32")
    ended = []
    for _ in range(2):
        # A new variable counts its updates from 0.
        table = variable(np.ones([7, 3]))
        for _ in range(5):
            update(ROW_RULES["sgd"], [table], gradients, [0.01, 0.0])
        ended.append(floats(table))
    np.testing.assert_array_equal(*ended)


def test_updates_are_recorded(rng):
    table = variable(rng.normal(size=[9, 4]))
    watch_rows(table)
    update(ROW_RULES["sgd"], [table], np.ones([3, 4], "float32"), [0.1, 0.0])
    np.testing.assert_array_equal(touched_rows(table, 0)[0], [0, 1, 2])


def test_tables_of_one_request_have_one_dtype(rng):
    with pytest.raises(ConfigError, match="one dtype"):
        gather_rows([variable(np.ones([2, 2])), variable(np.ones([2, 2]), tf.float32)], tf.constant([0, 0], tf.int64))
