"""Functions of Keras and TensorFlow that would read a table whole, although they need only some of its rows.

They get a Keras variable that holds a table, or the table. Without the hooks that use this module they convert it to a
tensor.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfps import step
from tfps.embedding.table import Table
from tfps.keras._compat import Variable, in_symbolic_scope, keras
from tfps.nn import lookups
from tfps.ops.shared_constants import shared_constant


def takes_rows(x: object, indices: object, axis: int | None = None) -> bool:
    """Whether a call of `keras.ops.take` has to look up rows of a table here."""
    return axis == 0 and _holds_table(x)


def take_rows(
    stock: Callable[..., tf.Tensor],
    x: keras.Variable | Table,
    indices: tf.Tensor | tf.RaggedTensor | tf.SparseTensor,
    axis: int | None = None,
) -> tf.Tensor | tf.RaggedTensor:
    """Looks up rows as `keras.ops.take` does; negative ids count from the end.

    Keras asks for the shape of the table as a tensor. In eager code that would read every row, and in a graph it makes
    thirty operations for each lookup that nothing uses: with hundreds of tables, a third of the time of a trace.
    Rows that were requested before the step do not depend on its ids, so then their signs do not matter.
    """
    if isinstance(indices, tf.RaggedTensor):
        return indices.with_flat_values(take_rows(stock, x, indices.flat_values, axis))
    if isinstance(indices, tf.SparseTensor):
        # A place without an index has row 0, as in Keras.
        rows = take_rows(stock, x, tf.sparse.to_dense(tf.sparse.reorder(indices)), axis)
        rows.set_shape(indices.shape + rows.shape[-1:])
        return rows
    # `variable.value` is the table.
    table, ids = x._value if isinstance(x, Variable) else x, tf.convert_to_tensor(indices)
    if in_symbolic_scope() and not tf.executing_eagerly():
        # Keras builds a model from the shapes of its tensors, in a graph that never runs.
        return tf.compat.v1.placeholder(table.dtype, ids.shape.concatenate([table.dim]))
    current = step.current()
    if current is None or not current.lookups.answers_next_early:
        ids = count_from_end(ids, table.rows)
    return table.sparse_read(ids)


def count_from_end(ids: tf.Tensor, rows: int) -> tf.Tensor:
    """Adds the number of rows to negative ids."""
    zero, rows = (shared_constant(number, ids.dtype) for number in (0, rows))
    return tf.raw_ops.SelectV2(condition=tf.raw_ops.Less(x=ids, y=zero), t=tf.raw_ops.AddV2(x=ids, y=rows), e=ids)


def is_for_table(*args: Any, **kwargs: Any) -> bool:
    """Whether a call of a lookup of `tf.nn` is for a table. Its first argument has another name in each function."""
    params = args[0] if args else kwargs.get("params", kwargs.get("embedding_weights"))
    return any(_holds_table(part) for part in (params if isinstance(params, list | tuple) else [params]))


def embedding_lookup_sparse(stock: Callable[..., tf.Tensor], *args: Any, **kwargs: Any) -> tf.Tensor:
    """Runs `tfps.nn.embedding_lookup_sparse` in place of that of `tf.nn`."""
    return lookups.embedding_lookup_sparse(*args, **kwargs)


def safe_embedding_lookup_sparse(stock: Callable[..., tf.Tensor], *args: Any, **kwargs: Any) -> tf.Tensor:
    """Runs `tfps.nn.safe_embedding_lookup_sparse` in place of that of `tf.nn`."""
    return lookups.safe_embedding_lookup_sparse(*args, **kwargs)


def _holds_table(value: object) -> bool:
    return isinstance(value._value if isinstance(value, Variable) else value, Table)
