"""Reads the rows of a table and their slots chunk by chunk, in one op on their server, to save or export them."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops import library, stored_rows


class ScannedRows(NamedTuple):
    """One chunk of a scan.

    Args:
        keys: the number of each row, int64 [m].
        rows: the rows of the table, [m, dim], then of each slot, [m, width of the slot]. bfloat16 comes as float32.
        cursor: the start of the next chunk, int64 scalar; -1 after the last chunk.
    """

    keys: tf.Tensor
    rows: list[tf.Tensor]
    cursor: tf.Tensor


def scan_rows(variables: Sequence[tf.Variable], cursor: tf.Tensor | int, max_rows: int) -> ScannedRows:
    """Copies the next rows of a table and their slots.

    The C++ op locks a table and its slots together, so a row and its slots are from the same moment. Without the
    library, or for other dtypes than float32 and bfloat16, each variable is read at another moment.

        cursor = 0
        while cursor != -1:
            keys, (rows, accumulators), cursor = scan_rows([table, accumulator], cursor, 65536)

    Args:
        variables: the table, [any, dim], then its slots, which have the same rows; all on one server.
        cursor: 0 for the first chunk, then the cursor of the chunk before. For variables it is the number of the
            next row.
        max_rows: the most rows of a chunk. The server needs memory for one chunk.

    Returns:
        The chunk, on the server.

    Raises:
        ConfigError: there is no table, or `max_rows` is not at least 1.
        tf.errors.InvalidArgumentError: the cursor does not come from a scan of this table.
    """
    if not variables or max_rows < 1:
        raise ConfigError(
            "`variables` must be a table and its slots, and `max_rows` at least 1. "
            f"Received: {len(variables)} variables and max_rows={max_rows}."
        )
    ops = library.load()
    cursor = tf.cast(cursor, tf.int64)
    with tf.device(variables[0].device):
        if ops is None or any(variable.dtype not in stored_rows.DTYPES for variable in variables):
            return scan_rows_graph(variables, cursor, max_rows)
        handles = [variable.handle for variable in variables]
        chunk = ops.tfps_scan_rows(variables=handles, cursor=cursor, dim=int(variables[0].shape[1]), max_rows=max_rows)
        return ScannedRows(chunk.keys, list(chunk.rows), chunk.next_cursor)


def scan_rows_graph(variables: Sequence[tf.Variable], cursor: tf.Tensor, max_rows: int) -> ScannedRows:
    """Does the same with TensorFlow's own ops; see `scan_rows`."""
    # Only the shape is read here, not the variable.
    size = tf.raw_ops.VariableShape(input=variables[0].handle, out_type=tf.int64)[0]
    fits = tf.debugging.Assert(
        (cursor >= 0) & (cursor <= size), ["`cursor` must be 0 or come from an earlier chunk. Received:", cursor]
    )
    with tf.control_dependencies([fits]):
        keys = tf.range(cursor, tf.minimum(size, cursor + max_rows), dtype=tf.int64)
    # A gather, because a slice of a variable would first read the whole variable.
    rows = [stored_rows.read_rows(variable, keys) for variable in variables]
    end = cursor + tf.size(keys, tf.int64)
    return ScannedRows(keys, rows, tf.where(end == size, tf.constant(-1, tf.int64), end))
