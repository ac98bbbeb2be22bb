"""Rows of several tables of one server, in one op that runs there."""

from collections.abc import Sequence

import tensorflow as tf

from tfps.ops import library
from tfps.ops.row_request import split_request, width


def gather_rows(tables: Sequence[tf.Variable], request: tf.Tensor) -> tf.Tensor:
    """Copies the rows that a request asks for out of the tables of one server.

    Each table is locked against updates while its own rows are copied, with the library and without, so no row is read
    half updated.

    Args:
        tables: variables of one server and dtype, [any, dim] each, in the order of the request's pieces. Tables of
            another dtype than float32 are read by TensorFlow's own ops.
        request: int64, [len(tables) + m], from `route_unique`.

    Returns:
        [m, dim], in the order of the request.

    Raises:
        ConfigError: the tables are no matrices of one width and dtype.
        tf.errors.InvalidArgumentError: the request does not fit the tables.
    """
    dim = width(tables)
    ops = library.load()
    # The op runs where the tables are: only the request and the rows cross.
    with tf.device(tables[0].device):
        if ops is None or tables[0].dtype != tf.float32:
            return gather_rows_graph(tables, request)
        return ops.tfps_gather_rows(tables=[table.handle for table in tables], request=request, dim=dim)


def gather_rows_graph(tables: Sequence[tf.Variable], request: tf.Tensor) -> tf.Tensor:
    """The same by TensorFlow's own ops; see `gather_rows`."""
    _, rows = split_request(request, len(tables))
    # ResourceGather holds the variable's lock shared while it copies; ResourceScatterNdAdd of an update takes it alone.
    gathered = [
        tf.raw_ops.ResourceGather(resource=table.handle, indices=wanted, dtype=table.dtype)
        for table, wanted in zip(tables, rows, strict=True)
    ]
    # Without this the width is unknown where the tables' shapes are, and layers could not be built on the result.
    return tf.ensure_shape(tf.concat(gathered, axis=0), [None, tables[0].shape[1]])
