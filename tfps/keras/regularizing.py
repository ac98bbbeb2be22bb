"""Regularizers of tables: they see the rows that a step looks up, each once, and never the whole table."""

from collections.abc import Callable

import tensorflow as tf

from tfps import step
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.keras._compat import keras


def losses(stock: Callable[..., list[tf.Tensor]], layer: keras.layers.Layer) -> list[tf.Tensor]:
    """The regularization losses of a layer in a step; replaces Keras's `_get_regularization_losses`.

    The loss of a table looks up the rows of the step once more. That lookup shares the request of the others, so no row
    crosses twice.
    """
    regularized = [(v, v.regularizer) for v in layer.trainable_weights if isinstance(v._value, Table) and v.regularizer]
    # Keras would convert a regularized table to a tensor, which fails in a step: it sees none for a moment.
    try:
        for variable, _ in regularized:
            variable.regularizer = None
        found = list(stock(layer))
    finally:
        for variable, regularizer in regularized:
            variable.regularizer = regularizer
    rows = [(regularizer, _rows_of_step(variable._value)) for variable, regularizer in regularized]
    return [*found, *(regularizer(of_table) for regularizer, of_table in rows if of_table is not None)]


def _rows_of_step(table: Table) -> tf.Tensor | None:
    """The rows that the step under trace has looked up so far, each once; None where it has not asked for any."""
    current = step.current()
    assert current is not None
    asked = [tf.reshape(tf.cast(ids, tf.int64), [-1]) for one, ids in current.looked_up if one is table]
    if not asked:
        return None
    # Ids of a branch are tensors of its own graph, and what they are is unknown where it is not taken.
    here = tf.compat.v1.get_default_graph()
    if any(ids.graph is not here for ids in asked):
        raise UnsupportedError(
            f"a regularized table must not be looked up in a branch or a loop of the model. Received: {table.name!r}."
        )
    return table.sparse_read(tf.unique(tf.concat(asked, 0)).y)
