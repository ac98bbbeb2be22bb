"""Reads rows of several tables of one server, in one op that runs on that server."""

from collections.abc import Sequence

import tensorflow as tf

from tfps.ops import library, stored_rows
from tfps.ops.row_request import common_width, split_request


def gather_rows(tables: Sequence[tf.Variable], request: tf.Tensor) -> tf.Tensor:
    """Copies the requested rows out of the tables of one server.

    Each table is locked against updates while its rows are copied, with and without the library, so no row is read
    half updated.

    Args:
        tables: variables of one server and dtype, [any, dim] each, in the order of the request's pieces. Tables of
            another dtype than float32 and bfloat16 are read by TensorFlow's own ops.
        request: the request from `route_unique`, int64, [len(tables) + m].

    Returns:
        The rows, [m, dim] of the dtype of the tables, in the order of the request.

    Raises:
        ConfigError: the tables are not matrices of one width and dtype.
        tf.errors.InvalidArgumentError: the request does not fit the tables.
    """
    dim = common_width(tables)
    ops = library.load()
    # The op runs on the server of the tables, so only the request and the rows cross the network.
    with tf.device(tables[0].device):
        if ops is None or tables[0].dtype not in stored_rows.DTYPES:
            return gather_rows_graph(tables, request)
        handles = [table.handle for table in tables]
        return ops.tfps_gather_rows(tables=handles, request=request, dim=dim, T=tables[0].dtype)


def gather_rows_graph(tables: Sequence[tf.Variable], request: tf.Tensor) -> tf.Tensor:
    """Does the same with TensorFlow's own ops; see `gather_rows`."""
    _, rows = split_request(request, len(tables))
    # ResourceGather holds the variable's lock shared while it copies. An update's ResourceScatterNdAdd holds it
    # exclusively, so the two never overlap.
    gathered = [
        tf.raw_ops.ResourceGather(resource=table.handle, indices=wanted, dtype=table.dtype)
        for table, wanted in zip(tables, rows, strict=True)
    ]
    # A table of unknown shape would leave the width of the result unknown, and no layer could be built on it.
    return tf.ensure_shape(tf.concat(gathered, axis=0), [None, tables[0].shape[1]])
