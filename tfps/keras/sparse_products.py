"""`tf.sparse.sparse_dense_matmul` with a table: looks up the rows for the columns that the sparse matrix has."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfps import step
from tfps.embedding.table import Table
from tfps.keras.inner_functions import is_in_traced_step


def is_of_table(
    sp_a: object, b: object, adjoint_a: bool = False, adjoint_b: bool = False, name: str | None = None
) -> bool:
    """Whether a product in a step has a sparse matrix at the left and a table at the right."""
    if not is_in_traced_step() or adjoint_a or adjoint_b or not isinstance(sp_a, tf.SparseTensor):
        return False
    # A table or a Keras variable with one; or the tensor of a whole table, which can read rows too.
    if isinstance(getattr(b, "_value", b), Table):
        return True
    return tf.is_tensor(b) and "sparse_read" in getattr(b, "__dict__", ())


def multiply(
    stock: Callable[..., tf.Tensor], sp_a: tf.SparseTensor, b: Any, *args: object, **kwargs: object
) -> tf.Tensor:
    """Multiplies a sparse matrix by a table; only the rows that the product needs cross.

    Args:
        stock: the function of TensorFlow. It is not used.
        sp_a: the sparse matrix, [m, rows].
        b: the table, [rows, dim].
        args: the other arguments of TensorFlow's function, at their defaults.
        kwargs: the same.

    Returns:
        The product, [m, dim].
    """
    table = getattr(b, "_value", b)
    current = step.current()
    if current is not None:
        # The gradient of TensorFlow's product is dense. The tensor of a whole table has a `sparse_read` of that table.
        current.sum_repeats((table if isinstance(table, Table) else table.sparse_read.args[0]).key)
    rows = tf.cast(table.sparse_read(sp_a.indices[:, 1]), sp_a.values.dtype)
    # The indices need not be sorted, and may repeat.
    product = tf.math.unsorted_segment_sum(rows * sp_a.values[:, None], sp_a.indices[:, 0], sp_a.dense_shape[0])
    product.set_shape([sp_a.shape[0], rows.shape[1]])
    return product
