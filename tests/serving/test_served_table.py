"""The rows of a follower beside a dictionary: the same after any changes, and in no more memory than is said."""

import numpy as np
import pytest

from tfps.errors import ExportError
from tfps.serving.served_table import KeyIndex, ServedTable, TableLoader

DIM = 3
MISSING = np.full(DIM, -1, np.float32)
ENDS = [-(2**63), -(2**63) + 1, -1, 0, 2**63 - 2, 2**63 - 1]


def loaded(ids, rng, dim=DIM):
    loader, rows = TableLoader(dim, len(ids)), rng.random((len(ids), dim), np.float32)
    for part in range(3):
        loader.add(ids[part::3], rows[part::3])
    return loader.finish(), dict(zip(ids.tolist(), rows, strict=True))


def assert_same(table, rows, wanted):
    found_rows, found = table.gather(wanted, MISSING)
    np.testing.assert_array_equal(found, [one in rows for one in wanted.tolist()])
    expected = [rows.get(one, MISSING) for one in wanted.tolist()]
    np.testing.assert_array_equal(found_rows, np.array(expected, np.float32).reshape(len(wanted), DIM))
    assert len(table) == len(rows)
    np.testing.assert_array_equal(table.keys, sorted(rows))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["range", "any", "none"])
def test_a_table_has_what_a_dictionary_has(kind, seed):
    rng = np.random.default_rng(seed)
    pool = {
        "range": np.arange(5, 1505),
        "any": np.unique(np.append(rng.integers(-(2**63), 2**63 - 1, 1500), ENDS)),
        "none": np.arange(0),
    }[kind]
    table, rows = loaded(rng.permutation(pool), rng)
    universe = np.concatenate([pool, ENDS, rng.integers(-50, 9000, 3000)])
    assert_same(table, rows, rng.permutation(universe))
    for _ in range(12):
        keys = rng.permutation(np.unique(rng.choice(universe, rng.integers(0, 2500))))
        values = rng.random((keys.size, DIM), np.float32)
        # Some of them are among those that change, and some are not there.
        evicted = np.unique(rng.choice(universe, rng.integers(0, 900)))
        change = table.prepare(keys, values, evicted)
        # Lookups find the old rows until the change is made.
        assert_same(table, rows, rng.choice(universe, 500))
        table.commit(change)
        rows.update(zip(keys.tolist(), values, strict=True))
        for one in evicted.tolist():
            rows.pop(one, None)
        assert_same(table, rows, rng.permutation(universe))


def test_of_an_id_that_comes_twice_the_later_row_counts():
    loader = TableLoader(1, 4)
    loader.add(np.array([7, 3]), np.array([[1], [2]], np.float32))
    loader.add(np.array([3, 9]), np.array([[3], [4]], np.float32))
    table = loader.finish()
    assert len(table) == 3 and table.gather(np.array([3, 7, 9]), MISSING[:1])[0].tolist() == [[3], [1], [4]]
    # The place of the earlier row is used again.
    table.commit(table.prepare(np.array([5]), np.array([[6]], np.float32), np.zeros(0, np.int64)))
    assert table.bytes == 4 * (4 + 8 + 4)
    with pytest.raises(ExportError, match="an id twice"):
        table.prepare(np.array([11, 11]), np.zeros((2, 1), np.float32), np.zeros(0, np.int64))


def test_another_number_of_rows_than_announced_is_refused():
    rows = np.zeros((2, 1), np.float32)
    few, many = TableLoader(1, 3), TableLoader(1, 1)
    few.add(np.arange(2), rows)
    with pytest.raises(ExportError, match="2 rows.*says 3"):
        few.finish()
    with pytest.raises(ExportError, match="more rows than the 1"):
        many.add(np.arange(2), rows)


def test_rows_that_come_and_go_take_the_same_places():
    rng = np.random.default_rng(0)
    table, _ = loaded(np.arange(1000), rng)
    for turn in range(30):
        keys = np.arange(1000) + 500 * turn
        table.commit(table.prepare(keys, rng.random((1000, DIM), np.float32), np.arange(500 * turn)))
    # 1,500 rows are needed at a time, whatever their ids are, and a block more.
    assert table.bytes <= 4 * DIM * (1000 + 1024 + 1024) + 12 * 1500


def test_an_index_with_the_ends_of_int64_does_not_overflow():
    keys = np.array([2**63 - 3, 2**63 - 2, 2**63 - 1])
    places, found = KeyIndex(keys, np.arange(3, dtype=np.int32)).find(np.array(ENDS))
    assert found.tolist() == [False, False, False, False, True, True] and places[-2:].tolist() == [1, 2]


def test_a_table_is_not_copied_as_it_grows():
    rng = np.random.default_rng(0)
    table, _ = loaded(np.arange(100), rng)
    assert isinstance(table, ServedTable)
    before = table._blocks[0]
    table.commit(table.prepare(np.arange(100, 200), np.zeros((100, DIM), np.float32), np.zeros(0, np.int64)))
    assert table._blocks[0] is before
