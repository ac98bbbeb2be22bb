"""Updates by several threads lose nothing, block nobody for ever, and are never seen half done."""

import threading

import numpy as np
import tensorflow as tf

from tfps.ops.apply_rows import apply_rows, pack_update
from tfps.ops.gather_rows import gather_rows
from tfps.ops.row_rules import ROW_RULES

LIMIT_S = 300
# Large enough for an update to be interrupted half way; much smaller, and the tests pass without any lock.
ROWS, DIM = 2000, 128
EVERY_ROW = np.arange(ROWS)


def run_all(*targets):
    """Runs functions in threads of their own; fails if one fails or is not done in time."""
    errors = []

    def guarded(target):
        try:
            target()
        except Exception as error:  # handed to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=[target], daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive(), f"a thread was not done after {LIMIT_S} s: a deadlock"
    assert not errors


def test_no_update_is_lost_whatever_the_order_of_the_tables(way):
    first, second = (tf.Variable(tf.zeros([ROWS, DIM])) for _ in range(2))
    steps = 60

    def updates(tables):
        request = np.concatenate([[ROWS, ROWS], EVERY_ROW, EVERY_ROW]).astype(np.int64)
        message = pack_update([1.0, 0.0], request, tf.ones([2 * ROWS, DIM]))
        for _ in range(steps):
            apply_rows(ROW_RULES["sgd"], [[table] for table in tables], message)

    run_all(*(lambda order=order: updates(order) for order in ([first, second], [second, first]) for _ in range(2)))
    np.testing.assert_array_equal(first.numpy(), np.full([ROWS, DIM], -4 * steps))
    np.testing.assert_array_equal(second.numpy(), np.full([ROWS, DIM], -4 * steps))


def test_slots_follow_their_rows(way):
    """Adagrad's accumulator counts every update, so that it must equal their number."""
    table, slot = tf.Variable(tf.zeros([ROWS, DIM])), tf.Variable(tf.zeros([ROWS, DIM]))
    request = np.array([ROWS, *EVERY_ROW], np.int64)
    message = pack_update([0.0, 1.0, 0.0], request, tf.ones([ROWS, DIM]))

    def updates():
        for _ in range(60):
            apply_rows(ROW_RULES["adagrad"], [[table, slot]], message)

    run_all(updates, updates, updates)
    np.testing.assert_array_equal(slot.numpy(), np.full([ROWS, DIM], 180))


def test_no_row_is_seen_half_updated(way):
    table = tf.Variable(tf.zeros([1, 1_000_000]))
    request = np.array([1, 0], np.int64)
    message = pack_update([1.0, 0.0], request, tf.ones([1, 1_000_000]))
    done = threading.Event()
    seen = set()

    def updates():
        count = 0
        while count < 60 or (len(seen) < 3 and count < 10_000):  # readers may be long in getting a core
            apply_rows(ROW_RULES["sgd"], [[table]], message)
            count += 1
        done.set()

    def reads():
        while not done.is_set():
            rows = gather_rows([table], request).numpy()
            assert (rows == rows[:, :1]).all()
            seen.add(rows[0, 0])

    run_all(updates, reads, reads)
    assert len(seen) > 2


def test_dense_reads_while_rows_are_updated(way):
    """What a checkpoint does: each of its reads is one moment of each row, and stays what it was."""
    table = tf.Variable(tf.zeros([1, 1_000_000]))
    request = np.array([1, 0], np.int64)
    message = pack_update([1.0, 0.0], request, tf.ones([1, 1_000_000]))
    done = threading.Event()

    def updates():
        for _ in range(60):
            apply_rows(ROW_RULES["sgd"], [[table]], message)
        done.set()

    def reads():
        while not done.is_set():
            read = table.read_value()
            first = read.numpy().copy()
            assert (first == first[:, :1]).all()
            np.testing.assert_array_equal(read, first)

    run_all(updates, reads)
