"""Regularizers of tables: they see the rows that a step looks up, each once, and never the whole table."""

from typing import Any

import tensorflow as tf

from tfps import step
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError


def losses(stock: Any, layer: Any) -> list[Any]:
    """Stands for Keras's `_get_regularization_losses` in a step; that of a table looks its rows up once more."""
    regularized = [(v, v.regularizer) for v in layer.trainable_weights if isinstance(v._value, Table) and v.regularizer]
    try:
        for variable, _ in regularized:
            variable.regularizer = None
        found = list(stock(layer))
    finally:
        for variable, regularizer in regularized:
            variable.regularizer = regularizer
    rows = [(regularizer, _rows_of_step(variable._value)) for variable, regularizer in regularized]
    return [*found, *(regularizer(of_table) for regularizer, of_table in rows if of_table is not None)]


def _rows_of_step(table: Table) -> Any:
    """The rows that the step under trace has looked up so far, each once; None where it has not asked for any."""
    current = step.current()
    assert current is not None
    asked = [tf.reshape(tf.cast(ids, tf.int64), [-1]) for one, ids in current.looked_up if one is table]
    if not asked:
        return None
    here = tf.compat.v1.get_default_graph()
    if any(ids.graph is not here for ids in asked):
        raise UnsupportedError(
            f"a regularized table must not be looked up in a branch or a loop of the model. Received: {table.name!r}."
        )
    return table.sparse_read(tf.unique(tf.concat(asked, 0)).y)
