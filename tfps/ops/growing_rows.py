"""Makes and tends tables that grow, on their servers. Lookups, updates and scans are those of every table.

tfps_ops/core/growing/growing_rows.h says what such a table does.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import tensorflow as tf

from tfps.errors import UnsupportedError
from tfps.ops import library
from tfps.ops.row_rules import RowRule
from tfps.ops.scan_rows import ScannedRows

META_WIDTH = 3
"""The numbers of a row in `meta_column`: updates of the table since the row was used, seconds since, its score."""

NOW = -1
"""The cursor of `keys_since` that begins to record at this moment."""


class KeysSince(NamedTuple):
    """What has happened to a table since a cursor.

    Args:
        touched: the keys of rows that were updated and are stored, int64 [n].
        evicted: the keys of rows that have gone, int64 [m].
        cursor: what to ask with next time, int64.
        complete: whether all evicted keys are known, bool.
    """

    touched: tf.Tensor
    evicted: tf.Tensor
    cursor: tf.Tensor
    complete: tf.Tensor


class GrowthCounts(NamedTuple):
    """What a table, or one of its shards, has done since it was made.

    Args:
        rows: the rows that are stored.
        bytes: all memory of the table, index and counts included.
        admitted: the rows that updates have made.
        refused: the gradients that were dropped because their id had no row.
        over_budget: how many of these were dropped because the budget was full.
        evicted: the rows that have gone.
        updates: the updates of the table.
        load: the part of the index that is in use, 0 to 1.
        probes: the mean number of buckets of the index that a lookup of a row reads, at least 1.
    """

    rows: int
    bytes: int
    admitted: int
    refused: int
    over_budget: int
    evicted: int
    updates: int
    load: float
    probes: float


def _ops() -> ModuleType:
    ops = library.load()
    if ops is None:
        raise UnsupportedError(
            "tables that grow need the C++ ops of tfps. Received: a TensorFlow without them. Build them with "
            "`pip install --no-build-isolation`, and leave TFPS_DISABLE_OPS unset."
        )
    return ops


def make_table(dim: int, attributes: dict[str, Any], stored_dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Makes a table on the current device, and returns the handle that owns it.

    Args:
        dim: the width of a row.
        attributes: attributes of the op TfpsGrowingTable.
        stored_dtype: the dtype in which rows are stored, float32 or bfloat16.

    Raises:
        UnsupportedError: the C++ ops are not built.
        tf.errors.InvalidArgumentError: an attribute breaks its rule.
    """
    return _ops().tfps_growing_table(dim=dim, storage=stored_dtype, **attributes)


def add_column(table: tf.Tensor, width: int, initial: float, stored_dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Adds a column with `width` numbers a row, and returns the handle that owns it."""
    return _ops().tfps_growing_column(table=table, width=width, initial=initial, storage=stored_dtype)


def meta_column(table: tf.Tensor) -> tf.Tensor:
    """Returns a handle of the metadata of rows, which is gathered, scanned and assigned as a column."""
    return _ops().tfps_growing_meta(table=table)


def gather(
    columns: list[tf.Tensor], request: tf.Tensor, dim: int, training: bool, dtype: tf.DType = tf.float32
) -> tf.Tensor:
    """Copies the requested rows of columns of one width, [m, dim] of `dtype`; see `tfps.ops.gather_rows`."""
    return _ops().tfps_gather_rows(tables=columns, request=request, dim=dim, training=training, T=dtype)


def apply(rule: RowRule, columns: list[tf.Tensor], message: tf.Tensor, tables: int, dim: int) -> tf.Operation | None:
    """Updates rows; `columns` are the tables, then the first slot of each; see `tfps.ops.apply_rows`."""
    return _ops().tfps_apply_rows(
        variables=columns, message=message, tables=tables, dim=dim, rule=rule.name, any_key=True
    )


def scan(columns: list[tf.Tensor], cursor: tf.Tensor | int, dim: int, max_rows: int) -> ScannedRows:
    """Copies the next rows of a table and its slots; see `tfps.ops.scan_rows`."""
    chunk = _ops().tfps_scan_rows(variables=columns, cursor=tf.cast(cursor, tf.int64), dim=dim, max_rows=max_rows)
    return ScannedRows(chunk.keys, list(chunk.rows), chunk.next_cursor)


def assign(column: tf.Tensor, keys: tf.Tensor, values: tf.Tensor) -> tf.Operation | None:
    """Overwrites one column of rows, and makes those that are not stored."""
    return _ops().tfps_assign_growing(column=column, keys=keys, values=values)


def keys_since(table: tf.Tensor, cursor: tf.Tensor | int) -> KeysSince:
    """Returns what has happened since a cursor; `NOW` begins to record."""
    return KeysSince(*_ops().tfps_growing_since(table=table, cursor=tf.cast(cursor, tf.int64)))


def counts(table: tf.Tensor) -> GrowthCounts:
    """Returns the counts of a table. Runs eagerly."""
    return read_counts(*(part.numpy() for part in count_tensors(table)))


def count_tensors(table: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the counts of a table as tensors: the integers, int64 [7], and the ratios, float32 [2]."""
    numbers, ratios = _ops().tfps_growing_counts(table=table)
    return numbers, ratios


def read_counts(numbers: Sequence[int], ratios: Sequence[float]) -> GrowthCounts:
    """Returns the counts in the values of `count_tensors`."""
    return GrowthCounts(*map(int, numbers), *map(float, ratios))


def erase(table: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Removes rows, and returns how many went, int64."""
    return _ops().tfps_erase_growing(table=table, keys=keys)


def clear(table: tf.Tensor) -> tf.Operation | None:
    """Removes all rows, and what was counted of ids that wait."""
    return _ops().tfps_clear_growing(table=table)


def pin(table: tf.Tensor, keys: tf.Tensor, pinned: bool) -> tf.Operation | None:
    """Keeps rows from being evicted, or no longer does."""
    return _ops().tfps_pin_growing(table=table, keys=keys, pinned=pinned)


def add_scores(table: tf.Tensor, keys: tf.Tensor, amounts: tf.Tensor) -> tf.Operation | None:
    """Adds to the scores of rows that are stored."""
    return _ops().tfps_add_scores(table=table, keys=keys, amounts=amounts)


def evict(table: tf.Tensor, rows: int) -> tf.Tensor:
    """Evicts what the rule of the table says among the next rows, and returns how many went, int64."""
    return _ops().tfps_evict_growing(table=table, rows=tf.constant(rows, tf.int64))
