"""Regularizers of tables. They see each row that a step looks up once, and never the whole table."""

from collections.abc import Callable

import tensorflow as tf

from tfps import step
from tfps.embedding.lookup import expand, look_up
from tfps.embedding.lookup_group import of_all_ids
from tfps.embedding.table import Table
from tfps.embedding.whole import is_used_so_far
from tfps.errors import UnsupportedError
from tfps.keras._compat import keras
from tfps.keras.row_functions import count_from_end


def losses(stock: Callable[..., list[tf.Tensor]], layer: keras.layers.Layer) -> list[tf.Tensor]:
    """Returns the regularization losses of a layer in a step; replaces Keras's `_get_regularization_losses`.

    The loss of a table looks up the rows of the step again. This lookup shares the request of the other lookups, so no
    row is sent twice.
    """
    regularized = [(v, v.regularizer) for v in layer.trainable_weights if isinstance(v._value, Table) and v.regularizer]
    # Keras would convert a regularized table to a tensor, which fails in a step. So tables have no regularizer while
    # the method of Keras runs.
    try:
        for variable, _ in regularized:
            variable.regularizer = None
        dense_losses = list(stock(layer))
    finally:
        for variable, regularizer in regularized:
            variable.regularizer = regularizer
    rows = [(regularizer, _rows_of_step(variable._value)) for variable, regularizer in regularized]
    return [*dense_losses, *(regularizer(found) for regularizer, found in rows if found is not None)]


def _rows_of_step(table: Table) -> tf.Tensor | None:
    """Returns each row that the traced step has looked up so far once; None if it has looked up no row of the table."""
    current = step.current()
    assert current is not None
    # As in one process, a step that reads the table whole regularizes all of it.
    whole = next((rows for one, rows in current.whole_reads if one is table and is_used_so_far(rows)), None)
    if whole is not None:
        return whole
    looked_up = [ids for one, ids in current.looked_up if one is table]
    if not looked_up:
        return None
    # Ids of a branch or a loop are tensors of another graph, and they have no value if the branch is not taken.
    here = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    if any(getattr(ids, "graph", None) is not here for ids in looked_up):
        raise UnsupportedError(
            f"a regularized table must not be looked up in a branch or a loop of the model. Received: {table.name!r}."
        )
    # In Keras the gradient of a regularizer is dense, and that of the lookups is added to it.
    current.sum_repeats(table.key)
    flat = [tf.reshape(tf.cast(ids, tf.int64), [-1]) for ids in looked_up]
    ids = tf.concat(flat, 0)
    if not table.routing.takes_any_id:
        # The lookups of the step may have left this out, where their rows were requested before.
        ids = count_from_end(ids, table.rows)
    unique = tf.unique(ids).y
    if current.devices == 1:
        return table.sparse_read(unique)
    # The loss of a device counts by its fraction of the examples, so each device regularizes the rows of all of them.
    found = look_up(table, unique)
    if not current.lookups.answered_early:
        raise UnsupportedError(
            f"the ids of a regularized table must follow from the inputs where {current.devices} devices share a "
            f"batch. Received: {table.name!r}, looked up by ids that depend on something else. "
            "Valid: devices_per_worker=1."
        )
    with step.on_host():
        found = of_all_ids(found)
    return expand(found)
