"""Rows with their slots, chunk by chunk, against the variables they come from, in both forms of the op."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops.apply_rows import apply_rows, pack_update
from tfps.ops.row_rules import ROW_RULES
from tfps.ops.scan_rows import scan_rows


def scan_all(variables, max_rows):
    """Every chunk of a scan, put together: (keys, one matrix a variable)."""
    keys, parts, cursor = [], [[] for _ in variables], 0
    while cursor != -1:
        chunk = scan_rows(variables, cursor, max_rows)
        assert len(chunk.keys) <= max_rows
        keys.append(chunk.keys.numpy())
        for of_variable, rows in zip(parts, chunk.rows, strict=True):
            of_variable.append(rows.numpy())
        cursor = int(chunk.cursor)
    return np.concatenate(keys), [np.concatenate(of_variable) for of_variable in parts]


@pytest.mark.parametrize("max_rows", [1, 3, 10, 11, 2**40])
@pytest.mark.parametrize("widths", [[4], [4, 4], [3, 1, 3, 1]])
def test_chunks_are_the_variables(way, rng, widths, max_rows):
    variables = [tf.Variable(rng.normal(size=[10, width]), dtype=tf.float32) for width in widths]
    keys, matrices = scan_all(variables, max_rows)
    np.testing.assert_array_equal(keys, np.arange(10))
    for variable, matrix in zip(variables, matrices, strict=True):
        np.testing.assert_array_equal(matrix, variable.numpy())


def test_an_empty_table_is_one_empty_chunk(way):
    chunk = scan_rows([tf.Variable(tf.zeros([0, 3]))], 0, 5)
    assert (chunk.keys.shape, chunk.rows[0].shape, int(chunk.cursor)) == ([0], [0, 3], -1)


def test_within_a_function(way, rng):
    table = tf.Variable(rng.normal(size=[7, 2]), dtype=tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
    def scan(cursor):
        chunk = scan_rows([table], cursor, 4)
        assert chunk.rows[0].shape.as_list() == [None, 2]
        return chunk.keys, chunk.rows[0], chunk.cursor

    keys, rows, cursor = scan(tf.constant(4, tf.int64))
    np.testing.assert_array_equal(keys, [4, 5, 6])
    np.testing.assert_array_equal(rows, table.numpy()[4:])
    assert int(cursor) == -1


def test_another_dtype_goes_by_tensorflow(way):
    table = tf.Variable(tf.reshape(tf.range(6, dtype=tf.float64), [3, 2]))
    np.testing.assert_array_equal(scan_all([table], 2)[1][0], table.numpy())


@pytest.mark.parametrize("cursor", [-1, 11, -(2**63), 2**62])
def test_a_cursor_of_no_chunk_is_an_error(way, cursor):
    with pytest.raises(tf.errors.InvalidArgumentError, match="`cursor` must be"):
        scan_rows([tf.Variable(tf.zeros([10, 2]))], cursor, 5)


def test_slots_of_another_table_are_an_error(way):
    with pytest.raises(tf.errors.InvalidArgumentError):
        scan_rows([tf.Variable(tf.zeros([10, 2])), tf.Variable(tf.zeros([9, 2]))], 0, 100).rows[1].numpy()


def test_arguments_are_checked():
    table = tf.Variable(tf.zeros([10, 2]))
    with pytest.raises(ConfigError, match="Received: 0 variables"):
        scan_rows([], 0, 5)
    with pytest.raises(ConfigError, match="max_rows=0"):
        scan_rows([table], 0, 0)


def test_a_row_and_its_slot_are_of_one_moment():
    """Each update adds 1 to the accumulator and to the row, so a scan that read them apart would find them unequal."""
    rows, dim = 200, 64
    table, slot = tf.Variable(tf.zeros([rows, dim])), tf.Variable(tf.zeros([rows, dim]))
    # w += 1e15 * g / sqrt(a + 1e30), and 1 is lost beside 1e30: the row moves by 1 as the accumulator does.
    request = np.array([rows, *range(rows)], np.int64)
    message = pack_update([-1e15, 1e30, 0.0], request, tf.ones([rows, dim]))
    done = threading.Event()

    def updates():
        for _ in range(100):
            apply_rows(ROW_RULES["adagrad"], [[table, slot]], message)
        done.set()

    thread = threading.Thread(target=updates)
    thread.start()
    while not done.is_set():
        _, (seen_rows, seen_slots) = scan_all([table, slot], rows)
        np.testing.assert_allclose(seen_rows, seen_slots, rtol=1e-3)
    thread.join()
    assert slot.numpy()[0, 0] == 100
