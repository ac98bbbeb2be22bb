"""Rows touched since a cursor: against a record kept in Python, under threads, and what the record does not outlive."""

import gc
import threading

import numpy as np
import pytest
import tensorflow as tf

from tfps.errors import UnsupportedError
from tfps.ops.apply_rows import apply_rows, pack_update
from tfps.ops.gather_rows import gather_rows
from tfps.ops.row_rules import ROW_RULES
from tfps.ops.touched_rows import touched_rows, watch_rows

DIM = 3


def table_of(rows):
    return tf.Variable(tf.zeros([rows, DIM]))


def update(tables, *rows):
    """Adds 1 to each element of some rows of each table."""
    counts = [len(of_table) for of_table in rows]
    request = np.concatenate([counts, *rows]).astype(np.int64)
    message = pack_update([-1.0, 0.0], request, tf.ones([sum(counts), DIM]))
    apply_rows(ROW_RULES["sgd"], [[table] for table in tables], message)


def touched(table, cursor):
    rows, cursor = touched_rows(table, cursor)
    assert rows.dtype == cursor.dtype == tf.int64
    return rows.numpy().tolist(), int(cursor)


def test_rows_since_a_cursor():
    table = table_of(5000)
    watch_rows(table)
    assert touched(table, 0) == ([], 0)
    update([table], [7, 2])
    rows, first = touched(table, 0)
    assert rows == [2, 7]
    update([table], [4999, 2])
    assert touched(table, first)[0] == [2, 4999]
    assert touched(table, 0)[0] == [2, 7, 4999]
    assert touched(table, touched(table, 0)[1])[0] == []


def test_equals_a_record_kept_in_python(rng):
    table = table_of(3000)
    watch_rows(table)
    last, cursors = {}, [0]
    for number in range(1, 60):
        rows = rng.choice(3000, rng.integers(1, 20), replace=False)
        update([table], rows)
        last |= dict.fromkeys(rows.tolist(), number)
        cursors.append(touched(table, 0)[1])
    for number, cursor in enumerate(cursors):
        assert touched(table, cursor)[0] == sorted(row for row, update in last.items() if update > number)


def test_each_table_of_a_message_has_a_record_of_its_own():
    first, second, unwatched = table_of(10), table_of(10), table_of(10)
    watch_rows(first)
    watch_rows(second)
    update([first, unwatched, second], [1], [2, 3], [])
    assert touched(first, 0)[0] == [1]
    assert touched(second, 0) == ([], 0)


def test_a_second_watch_keeps_the_record():
    table = table_of(10)
    watch_rows(table)
    update([table], [3])
    watch_rows(table)
    assert touched(table, 0)[0] == [3]


def test_a_refused_update_is_not_recorded():
    table = table_of(10)
    watch_rows(table)
    with pytest.raises(tf.errors.InvalidArgumentError):
        update([table], [3, 10])
    assert touched(table, 0) == ([], 0)


def test_a_variable_that_nobody_watches_is_an_error_and_so_is_one_that_took_the_place_of_a_watched_one():
    for _ in range(20):
        table = table_of(10)
        with pytest.raises(tf.errors.FailedPreconditionError, match="must be watched by TfpsWatchRows"):
            touched_rows(table, 0)
        watch_rows(table)
        update([table], [3])
        assert touched(table, 0)[0] == [3]
        # Memory of the old variable is likely to be that of the next: its record must be gone.
        del table
        gc.collect()


@pytest.mark.parametrize("cursor", [-1, 2, 2**62])
def test_a_cursor_of_another_watch_is_an_error(cursor):
    table = table_of(10)
    watch_rows(table)
    update([table], [3])
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"at most 1 so far. Received: {cursor}"):
        touched_rows(table, cursor)


def test_within_a_function():
    table = table_of(10)

    @tf.function
    def watch():
        watch_rows(table)

    @tf.function
    def look(cursor):
        rows, following = touched_rows(table, cursor)
        assert rows.shape.as_list() == [None]
        assert following.shape.as_list() == []
        return rows, following

    watch()
    update([table], [4, 1])
    rows, cursor = look(tf.constant(0, tf.int64))
    assert rows.numpy().tolist() == [1, 4]
    assert look(cursor)[0].numpy().tolist() == []


def test_rows_read_after_the_call_have_the_updates_of_the_answer():
    """Every row is updated once; whoever hears of a row must read it updated, and nobody may miss one."""
    rows = 3000
    table = table_of(rows)
    watch_rows(table)
    heard, cursor, done = [], 0, threading.Event()

    def updates():
        for first in range(0, rows, 10):
            update([table], np.arange(first, first + 10))
        done.set()

    thread = threading.Thread(target=updates)
    thread.start()
    last = False
    while not last:
        last = done.is_set()
        found, cursor = touched(table, cursor)
        if found:
            values = gather_rows([table], np.array([len(found), *found], np.int64))
            np.testing.assert_array_equal(values, np.ones([len(found), DIM]))
        heard += found
    thread.join()
    assert sorted(heard) == list(range(rows))


def test_what_cannot_be_watched_is_named(monkeypatch):
    with pytest.raises(
        UnsupportedError, match="watch_rows works for variables of float32 and bfloat16. Received: float64"
    ):
        watch_rows(tf.Variable(tf.zeros([4, 2], tf.float64)))
    monkeypatch.setenv("TFPS_DISABLE_OPS", "1")
    with pytest.raises(UnsupportedError, match=r"watch_rows needs the C\+\+ ops"):
        watch_rows(table_of(4))
    with pytest.raises(UnsupportedError, match=r"touched_rows needs the C\+\+ ops"):
        touched_rows(table_of(4), 0)
