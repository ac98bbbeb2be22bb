"""Requests to a server for rows of its tables. tfps_ops/core/routing/unique_router.h explains the layout."""

from collections.abc import Sequence

import tensorflow as tf

from tfps.errors import ConfigError

REPEATS = 1 << 62
"""Added to the number of a row in an update that brings measures for it. No table has that many rows."""


def split_request(request: tf.Tensor, tables: int) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Splits a request into its counts and the rows of each table, in a TensorFlow graph.

    Example: for 2 tables, `[2, 1, 7, 0, 5]` gives the counts `[2, 1]` and the rows `[7, 0]` and `[5]`.

    Args:
        request: int64, [tables + m]: the row count of each table, then the rows.
        tables: the number of tables, at least 1.

    Returns:
        (counts, rows): int64 [tables], and an int64 vector for each table.
    """
    counts, rows = request[:tables], request[tables:]
    # A request comes from another process, which may follow another plan. A request that does not fit must be an error
    # and not silently read other rows.
    fits = tf.reduce_all(counts >= 0) & (tf.reduce_sum(counts) == tf.size(rows, tf.int64))
    message = "the counts of `request` must be at least 0 and add up to its rows. Received:"
    with tf.control_dependencies([tf.debugging.Assert(fits, [message, counts])]):
        return tf.identity(counts), tf.split(rows, counts, num=tables)


def common_width(tables: Sequence[tf.Variable]) -> int:
    """Returns the number of columns that all tables of one request have.

    Args:
        tables: variables, [any, dim] each, at least one.

    Returns:
        dim.

    Raises:
        ConfigError: there is no table, or the tables are not matrices of one width and dtype.
    """
    if not tables:
        raise ConfigError("`tables` must hold at least one variable. Received: none.")
    for table in tables:
        # One message carries the rows of all tables, so their widths must agree.
        alike = table.dtype == tables[0].dtype and table.shape.rank == 2 and table.shape[1] == tables[0].shape[1]
        if not alike or table.shape[1] is None:
            raise ConfigError(
                "`tables` must be matrices of one known width and one dtype. "
                f"Received: {table.dtype.name} of shape {table.shape} after one of shape {tables[0].shape}."
            )
    return int(tables[0].shape[1])
