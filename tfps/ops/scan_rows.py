"""The rows of a variable with their slots, chunk by chunk, in one op beside them: for saving and exports."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops import library


class ScannedRows(NamedTuple):
    """One chunk of a scan.

    Args:
        keys: int64 [m], the number of each row.
        rows: the rows, [m, dim], and those of each slot, [m, its width].
        cursor: int64 scalar, where the next chunk begins; -1 after the last one.
    """

    keys: tf.Tensor
    rows: list[tf.Tensor]
    cursor: tf.Tensor


def scan_rows(variables: Sequence[tf.Variable], cursor: tf.Tensor | int, max_rows: int) -> ScannedRows:
    """Copies out the next rows of a table with their slots.

    In C++ a row and its slots are read at one moment, under their locks together. Without the library, or with other
    dtypes than float32, each variable is read at a moment of its own.

        cursor = 0
        while cursor != -1:
            keys, (rows, accumulators), cursor = scan_rows([table, accumulator], cursor, 65536)

    Args:
        variables: of one server: the table, [any, dim], and its slots, with the rows of the table.
        cursor: 0 for the first chunk, then that of the chunk before. Of variables it is the number of the next row.
        max_rows: rows of a chunk at most; the server needs memory for one chunk.

    Returns:
        The chunk, on the server.

    Raises:
        ConfigError: there is no table, or `max_rows` is not at least 1.
        tf.errors.InvalidArgumentError: the cursor is not one of a chunk of this table.
    """
    if not variables or max_rows < 1:
        raise ConfigError(
            "`variables` must be a table and its slots, and `max_rows` at least 1. "
            f"Received: {len(variables)} variables and max_rows={max_rows}."
        )
    ops = library.load()
    cursor = tf.cast(cursor, tf.int64)
    with tf.device(variables[0].device):
        if ops is None or any(variable.dtype != tf.float32 for variable in variables):
            return scan_rows_graph(variables, cursor, max_rows)
        handles = [variable.handle for variable in variables]
        chunk = ops.tfps_scan_rows(variables=handles, cursor=cursor, dim=int(variables[0].shape[1]), max_rows=max_rows)
        return ScannedRows(chunk.keys, list(chunk.rows), chunk.next_cursor)


def scan_rows_graph(variables: Sequence[tf.Variable], cursor: tf.Tensor, max_rows: int) -> ScannedRows:
    """The same by TensorFlow's own ops; see `scan_rows`."""
    size = tf.raw_ops.VariableShape(input=variables[0].handle, out_type=tf.int64)[0]
    fits = tf.debugging.Assert(
        (cursor >= 0) & (cursor <= size), ["`cursor` must be 0 or come from an earlier chunk. Received:", cursor]
    )
    with tf.control_dependencies([fits]):
        keys = tf.range(cursor, tf.minimum(size, cursor + max_rows), dtype=tf.int64)
    # A gather and no slice: a slice of a variable reads all of it first.
    rows = [tf.raw_ops.ResourceGather(resource=v.handle, indices=keys, dtype=v.dtype) for v in variables]
    end = cursor + tf.size(keys, tf.int64)
    return ScannedRows(keys, rows, tf.where(end == size, tf.constant(-1, tf.int64), end))
