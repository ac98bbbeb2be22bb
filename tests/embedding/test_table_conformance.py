"""What a table promises (`tfps.embedding.table.Table`), for each kind of table, on real servers."""

import concurrent.futures
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.embedding.dict_table import DictTable
from tfps.embedding.initialization import InitialValue
from tfps.embedding.lookup import expand, fetch
from tfps.embedding.push import RowUpdate, add, push
from tfps.embedding.sharded_table import ShardedTable
from tfps.errors import IdRangeError
from tfps.ops import library
from tfps.ops.row_rules import ROW_RULES
from tfps.placement.model import Placement
from tfps.placement.routing import Routing
from tfps.placement.spec import VariableSpec
from tfps.strategy.creation import Recipe, create_table

ROWS, DIM = 203, 6
KINDS = {"sharded": ShardedTable, "dict": DictTable}
RULE = ROW_RULES["adagrad"]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(params=["hash", "div"])
def make(request, strategy, kind):
    """Makes a table of three shards, two of them on one server, with given values."""

    def made(values, name="table"):
        values = np.asarray(values, np.float32)
        spec = VariableSpec(name, values.shape, is_table=True)
        placement = Placement.on(spec, [0, 1, 0], Routing(request.param, len(values), 3))
        return create_table(placement, Recipe(InitialValue(lambda: tf.constant(values)), kind), True)

    return made


def slot_of(table, width, value):
    spec = dataclasses.replace(table.placement.spec, name=f"slot_{width}", shape=(table.rows, width))
    placement = dataclasses.replace(table.placement, spec=spec)
    return table.create_slot(placement, InitialValue(lambda: None, constant=value))


def values(rng, dim=DIM):
    return rng.normal(size=[ROWS, dim]).astype("float32")


def test_says_what_it_is(make, kind, rng):
    table = make(values(rng))
    assert type(table) is kind and (table.rows, table.dim, table.dtype) == (ROWS, DIM, tf.float32)
    assert table.shape == [ROWS, DIM] and table.trainable
    assert table.servers == table.route.servers == (0, 1, 0)
    for store, server in zip(table.stores, table.servers, strict=True):
        assert f"/job:ps/replica:0/task:{server}" in store.device
        assert (store.dim, store.dtype) == (DIM, tf.float32)
    assert table.route.name == table.name == "table"
    assert make(values(rng)).key != table.key


def test_holds_its_first_values(make, rng):
    expected = values(rng)
    table = make(expected)
    np.testing.assert_array_equal(table.numpy(), expected)
    np.testing.assert_array_equal(np.asarray(table), expected)


def test_first_values_may_be_drawn_by_range(strategy, kind):
    spec = VariableSpec("ranges", (ROWS, DIM), is_table=True)
    placement = Placement.on(spec, [0, 1, 0], Routing("hash", ROWS, 3))
    expected = np.arange(ROWS * DIM, dtype=np.float32).reshape(ROWS, DIM)

    def rows(start, end):
        return tf.reshape(tf.range(start * DIM, end * DIM, dtype=tf.float32), [-1, DIM])

    table = create_table(placement, Recipe(InitialValue(lambda: None, rows), kind), False)
    np.testing.assert_array_equal(table.numpy(), expected)
    assert not table.trainable


@pytest.mark.parametrize("shape", [(0,), (1,), (50,), (4, 1, 9)], ids=str)
def test_gathers_rows_of_ids_of_any_shape(make, rng, shape):
    expected, ids = values(rng), rng.integers(0, ROWS, shape)
    np.testing.assert_array_equal(make(expected).sparse_read(ids), expected[ids])


def test_an_id_that_it_does_not_have_is_refused(make, rng):
    with pytest.raises(IdRangeError, match=f"table .*{ROWS}"):
        make(values(rng)).sparse_read([3, ROWS])


def test_tables_of_several_kinds_and_widths_are_read_at_once(strategy, rng):
    found, ids, expected = [], [], []
    for number, (kind, dim) in enumerate([("sharded", 4), ("dict", 4), ("sharded", 1), ("dict", 2), ("sharded", 4)]):
        expected.append(values(rng, dim))
        spec = VariableSpec(f"mixed_{number}", (ROWS, dim), is_table=True)
        placement = Placement.on(spec, [number % 2, 1], Routing("hash", ROWS, 2))
        initial = InitialValue(lambda whole=expected[-1]: tf.constant(whole))
        found.append(create_table(placement, Recipe(initial, KINDS[kind]), True))
        ids.append(rng.integers(0, ROWS, 11))
    for result, wanted, whole in zip(fetch(found, ids), ids, expected, strict=True):
        np.testing.assert_array_equal(expand(result), whole[wanted])


HYPER = {
    "learning_rate": 0.05,
    "momentum": 0.9,
    "nesterov": 0.0,
    "epsilon": 1e-3,
    "beta_1": 0.9,
    "beta_2": 0.99,
    "rho": 0.9,
    "learning_rate_power": -0.5,
    "l1": 0.01,
    "l2": 0.02,
    "l2_shrinkage": 0.03,
    "beta": 0.1,
}


def twin_update(rule, whole, ids, gradients, hyper):
    """Row by row, each with the sum of its gradients; `whole` has the table and its slots and is changed in place."""
    for row in np.unique(ids):
        gradient = gradients[ids == row].sum(0, keepdims=True)
        rows, *slots = (tf.constant(array[row : row + 1]) for array in whole)
        deltas = rule.deltas(rows, slots, tf.constant(gradient), tf.constant(hyper))
        for array, delta in zip(whole, deltas, strict=True):
            array[row] += delta[0].numpy()


@pytest.mark.parametrize("name", ROW_RULES)
def test_applies_every_row_rule_to_rows_and_slots(make, rng, name):
    rule, whole = ROW_RULES[name], [values(rng)]
    table = make(whole[0])
    slots = [slot_of(table, slot.width(DIM), 0.1 * (i + 1)) for i, slot in enumerate(rule.slots)]
    whole += [np.full(slot.shape, 0.1 * (i + 1), np.float32) for i, slot in enumerate(slots)]
    for step in range(1, 4):
        ids = rng.integers(0, 40, 60)  # so few that most come more than once
        gradients = rng.normal(size=[60, DIM]).astype("float32")
        hyper = [float({"step": step, **HYPER}[one]) for one in rule.hyperparameters] + [0.01]
        update = RowUpdate(table, slots, tf.IndexedSlices(tf.constant(gradients), ids), rule, tf.constant(hyper))
        push([update], [])
        twin_update(rule, whole, ids, gradients, hyper)
    for ours, expected in zip([table, *slots], whole, strict=True):
        np.testing.assert_allclose(ours.numpy(), expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("keep", [None, 0.75])
def test_adds_to_rows_of_which_a_part_may_stay(make, rng, keep):
    expected, ids = values(rng), rng.permutation(ROWS)[:31]
    delta = values(rng)[:31]
    table = make(expected)
    add([(table, ids, tf.constant(delta), None if keep is None else tf.constant(keep))])
    expected[ids] = expected[ids] * (1.0 if keep is None else keep) + delta
    np.testing.assert_allclose(table.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("chunk_rows", [1, 50, 1000])
def test_scans_rows_with_their_slots_in_chunks(make, rng, chunk_rows):
    expected = values(rng)
    table = make(expected)
    slots = [slot_of(table, DIM, 0.5), slot_of(table, 1, 2.0)]
    marks = np.arange(ROWS, dtype=np.float32)[:, np.newaxis]
    slots[1].assign(marks)
    seen = []
    for chunk in table.scan(slots, chunk_rows):
        assert 0 < len(chunk.ids) <= chunk_rows
        np.testing.assert_array_equal(chunk.rows, expected[chunk.ids])
        np.testing.assert_array_equal(chunk.slots[0], np.full([len(chunk.ids), DIM], 0.5))
        np.testing.assert_array_equal(chunk.slots[1], marks[chunk.ids])
        seen += list(chunk.ids)
    assert sorted(seen) == list(range(ROWS))


def test_slots_lie_beside_their_rows(make, rng):
    table = make(values(rng))
    for width in (DIM, 1):
        slot = slot_of(table, width, 0.25)
        assert type(slot) is type(table) and slot.dim == width and slot.key != table.key and not slot.trainable
        assert [store.device for store in slot.stores] == [store.device for store in table.stores]
        np.testing.assert_array_equal(slot.numpy(), np.full([ROWS, width], 0.25))


def test_assigns_all_rows_or_some(make, rng):
    table, expected = make(values(rng)), values(rng)
    assert table.assign(expected) is table
    np.testing.assert_array_equal(table.numpy(), expected)
    ids, rows = rng.permutation(ROWS)[:17], values(rng)[:17]
    table.assign_rows(ids, rows)
    expected[ids] = rows
    np.testing.assert_array_equal(table.numpy(), expected)
    table.assign_rows(ids[:0], rows[:0])
    np.testing.assert_array_equal(table.numpy(), expected)
    with pytest.raises(ValueError, match=r"shape .*\(3, 6\)"):
        table.assign(np.zeros((3, DIM)))


def test_names_the_rows_that_were_touched(make, kind, rng):
    if kind is ShardedTable and not library.available():
        pytest.skip("the library is not built")
    table = make(values(rng))
    moved = tf.ones([3, DIM])
    add([(table, [5, 9, 200], moved, None)])
    nothing, start = table.touched_since(None)
    assert list(nothing) == []
    add([(table, [9, 2, 101], moved, None)])
    ids, middle = table.touched_since(start)
    assert list(ids) == [2, 9, 101]
    assert [list(table.touched_since(middle)[0]), list(table.touched_since(start)[0])] == [[], [2, 9, 101]]
    add([(table, [9, 77, 202], moved, None)])
    assert list(table.touched_since(middle)[0]) == [9, 77, 202]
    assert list(table.touched_since(start)[0]) == [2, 9, 77, 101, 202]


def test_what_is_saved_is_restored_on_other_shards(make, kind, rng):
    expected = values(rng)
    saved = make(expected)._serialize_to_tensors()
    assert [tensor.shape for tensor in saved.values()] == [[ROWS, DIM]]  # whatever the number of shards
    spec = VariableSpec("elsewhere", (ROWS, DIM), is_table=True)
    placement = Placement.on(spec, [1, 0], Routing("mod", ROWS, 2))
    other = create_table(placement, Recipe(InitialValue(lambda: None, constant=0.0), kind), True)
    other._restore_from_tensors(saved)
    np.testing.assert_array_equal(other.numpy(), expected)


def test_is_restored_inside_a_function(make, rng):
    table, expected = make(values(rng)), values(rng)

    @tf.function
    def restore(value):
        table.assign(value)

    restore(tf.constant(expected))
    np.testing.assert_array_equal(table.numpy(), expected)


def test_workers_that_update_one_row_lose_nothing(make, strategy):
    table = make(np.zeros((ROWS, DIM)))
    ids = tf.constant([3, 7], tf.int64)

    @tf.function
    def work(times):
        for _ in tf.range(times):
            add([(table, ids, tf.ones([2, DIM]), None)])
        return times

    def run(device):
        with tf.device(device):
            work(tf.constant(200))

    with concurrent.futures.ThreadPoolExecutor() as threads:
        list(threads.map(run, strategy.worker_devices))
    expected = np.zeros((ROWS, DIM), np.float32)
    expected[[3, 7]] = 400
    np.testing.assert_array_equal(table.numpy(), expected)


def test_a_scanned_chunk_is_of_one_moment(make, kind, strategy):
    """While two workers push, every row of a chunk has had the same number of updates as every accumulator."""
    if kind is not ShardedTable or not library.available():
        pytest.skip("only variables promise this, and only with the library")
    table, rate, pushes = make(np.zeros((ROWS, DIM))), 0.5, 200
    slot = slot_of(table, DIM, 0.0)
    hyper = tf.constant([float({"learning_rate": rate, "epsilon": 0.0}[one]) for one in RULE.hyperparameters] + [0.0])

    @tf.function
    def work():
        gradient = tf.IndexedSlices(tf.ones([ROWS, DIM]), tf.range(ROWS, dtype=tf.int64))
        push([RowUpdate(table, [slot], gradient, RULE, hyper)], [])
        return 0

    def run(device):
        # A call a push: a scan waits for a function that runs on its server.
        for _ in range(pushes):
            with tf.device(device):
                work()

    # With gradients of 1 the accumulator counts the updates, and the row is minus the rate times this sum.
    rows_after = -rate * np.cumsum([0.0, *(1 / np.sqrt(1 + np.arange(2.0 * pushes)))])
    counts = set()
    with concurrent.futures.ThreadPoolExecutor() as threads:
        running = [threads.submit(run, device) for device in strategy.worker_devices]
        while not all(work.done() for work in running):
            for chunk in table.scan([slot], 40):
                (count,) = np.unique(chunk.slots[0].numpy())
                np.testing.assert_allclose(chunk.rows, np.full([len(chunk.ids), DIM], rows_after[int(count)]), 1e-4)
                counts.add(count)
        for work in running:
            work.result()
    assert len(counts) > 5  # the scans did meet the updates
    np.testing.assert_array_equal(slot.numpy(), np.full([ROWS, DIM], 2.0 * pushes))
