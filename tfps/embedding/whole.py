"""Tables that a step reads whole: full softmax, scoring of all items, `Dense` over a wide input.

In training, such a read is a lookup of all ids: rows and gradients take the path of every other lookup, so the servers
update all rows, as Keras updates a dense variable. In evaluation and prediction, a worker copies the table once in a
call and keeps the copy for the call.

Many conversions of a table to a tensor are never read: Keras needs the shape, TensorFlow's lookups convert `params` and
then gather from it. Therefore the tensor also has the method that `tf.gather` calls to read rows, and the recording of
a step (`tfps.training.hoisting`) finds out which conversions are read. Nothing is sent for the others.
"""

import functools
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import tensorflow as tf

from tfps import step
from tfps.embedding.lookup import fetch
from tfps.placement.text import human_bytes

if TYPE_CHECKING:
    from tfps.embedding.table import Table

_LOG = logging.getLogger("tfps")
_OF_SHAPES = ("Shape", "ShapeN", "Size", "Rank")
"""Operations that need no value of their input."""
WHOLE_SUFFIX = "_whole"
"""The end of the name of a worker's copy of a whole table."""
_CHUNK_BYTES = 64 << 20
"""Bytes of the rows that cross at a time: enough to hide the cost of a message, and far below the limit of gRPC."""


def read_in_graph(table: "Table") -> tf.Tensor:
    """Returns all rows of a table in the graph under trace, [rows, dim].

    Outside a step the tensor has the right shape but cannot be evaluated.
    """
    current = step.current()
    if current is None:
        rows = never(table)
    elif current.eager:
        # A function that an eager step calls.
        current.sum_repeats(table.key)
        rows = tf.identity(table.sparse_read(all_ids(table)))
    else:
        rows = current.lookups.read_whole(table)
    # `tf.gather` asks for this method. `tf.nn.embedding_lookup`, `tf.nn.sampled_softmax_loss` and others end there.
    rows.sparse_read = functools.partial(_read_rows, table)
    return rows


def _read_rows(table: "Table", indices: tf.Tensor, name: str | None = None) -> tf.Tensor:
    # TensorFlow's lookups colocate what they do with their `params`, but the rows are on other tasks.
    with tf.compat.v1.get_default_graph().colocate_with(None, ignore_existing=True):
        return table.sparse_read(indices, name)


def never(table: "Table") -> tf.Tensor:
    """Returns a tensor with the shape of a table that cannot be evaluated."""
    message = (
        f"tfps: a graph outside a step asked for the whole table {table.name} ({table.rows} x {table.dim}). Call the "
        "model eagerly, by `predict`, or by a step; or ask for rows: tf.gather, keras.ops.take."
    )
    # The message is no number, so the conversion fails if the tensor is ever evaluated, and the error of TensorFlow
    # quotes the message.
    number = tf.strings.to_number(message, out_type=tf.float32, name="whole_table_read")
    return tf.cast(tf.broadcast_to(number, table.shape), table.dtype)


def all_ids(table: "Table") -> tf.Tensor:
    """Returns the ids of all rows, int64 [rows]."""
    return tf.range(table.rows, dtype=tf.int64)


def is_read(tensor: tf.Tensor, results: Iterable[object]) -> bool:
    """Whether the value of a tensor is used: by an operation with an effect, a branch, a loop or a result.

    Args:
        tensor: a tensor of a graph whose trace has ended.
        results: the tensors that the graph returns.
    """
    ends = {id(result) for result in results}
    waiting, seen = [tensor], set()
    while waiting:
        one = waiting.pop()
        if id(one) in ends or any(one is output for output in getattr(one.graph, "outputs", ())):
            return True
        for operation in one.consumers():
            if operation.type in _OF_SHAPES:
                continue
            has_function = any(value.HasField("func") for value in operation.node_def.attr.values())
            if operation._is_stateful or has_function:
                return True
            if operation not in seen:
                seen.add(operation)
                waiting += operation.outputs
    return False


def is_used_so_far(tensor: tf.Tensor) -> bool:
    """Whether the trace has given a tensor to an operation, beside casts that nothing uses."""
    return any(one.type != "Cast" or is_used_so_far(one.outputs[0]) for one in tensor.consumers())


def say_once(table: "Table", how: str) -> None:
    """Logs once for a table and a way of reading it what crosses the network."""
    said = table.__dict__.setdefault("_said_whole", set())
    if how in said:
        return
    said.add(how)
    size = human_bytes(table.rows * table.dim * table.dtype.size)
    if how == "training":
        _LOG.warning(
            "a training step reads table %r whole: %s cross from the servers to a worker in each step, and as many "
            "back with its gradient. To send less: look up rows (keras.ops.take, tf.gather), sample classes "
            "(tf.nn.sampled_softmax_loss), or multiply by a sparse input (tf.sparse.sparse_dense_matmul).",
            table.name,
            size,
        )
    else:
        _LOG.info("%s reads table %r whole: %s cross to each worker once a call.", how, table.name, size)


class WholeCopies:
    """The copies of whole tables that a worker keeps during one call of `evaluate` or `predict`.

    Ownership: the copies are variables in the worker's own resource manager. The first closure of a call fills them;
    whoever made this object destroys them at the end of the call. Threading: a worker runs one closure at a time.

    Args:
        name: a name that no other object has.
        call: the method that reads tables, for the log.
    """

    def __init__(self, name: str, call: str) -> None:
        self._name, self._call = name, call

    def read(self, table: "Table") -> tf.Tensor:
        """Returns all rows, [rows, dim], in the graph of a closure; the first time in a call from the servers."""
        say_once(table, self._call)
        shape = [table.rows, table.dim]
        handle = tf.raw_ops.VarHandleOp(
            dtype=table.dtype, shape=shape, shared_name=f"tfps_{table._unique_id}_{self._name}{WHOLE_SUFFIX}"
        )
        filled = tf.cond(
            tf.raw_ops.VarIsInitializedOp(resource=handle),
            lambda: tf.constant(True),
            lambda: _fill(table, handle),
        )
        with tf.control_dependencies([filled]):
            rows = tf.raw_ops.ReadVariableOp(resource=handle, dtype=table.dtype)
        return tf.ensure_shape(rows, shape)


def _fill(table: "Table", handle: tf.Tensor) -> tf.Tensor:
    """Copies a table from its servers into a variable of the worker, chunk by chunk."""
    size = max(1, _CHUNK_BYTES // (table.dim * table.dtype.size))
    if table.rows <= size:
        assigned = tf.raw_ops.AssignVariableOp(resource=handle, value=_fetch_rows(table, all_ids(table)))
        with tf.control_dependencies([assigned]):
            return tf.constant(True)
    empty = tf.raw_ops.AssignVariableOp(resource=handle, value=tf.zeros([table.rows, table.dim], table.dtype))

    def body(start: tf.Tensor) -> tuple[tf.Tensor]:
        ids = tf.range(start, tf.minimum(start + size, table.rows), dtype=tf.int64)
        update = tf.raw_ops.ResourceScatterUpdate(resource=handle, indices=ids, updates=_fetch_rows(table, ids))
        with tf.control_dependencies([update]):
            return (start + size,)

    with tf.control_dependencies([empty]):
        first = tf.constant(0, tf.int64)
        (end,) = tf.while_loop(lambda start: start < table.rows, body, (first,), parallel_iterations=1)
    return end >= table.rows


def _fetch_rows(table: "Table", ids: tf.Tensor) -> tf.Tensor:
    found = fetch([table], [ids])[0]
    return tf.gather(found.group.answer, found.places)
