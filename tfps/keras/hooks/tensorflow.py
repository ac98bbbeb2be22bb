"""Hooks into TensorFlow: what a step calls is part of the step, and what is saved refers to the chief alone.

Threading: every thread that traces a step; exports run in the main thread.
"""

import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import polymorphic_function  # the class of `tf.function`s
from tensorflow.python.saved_model import save as saved_model  # the function behind `tf.saved_model.save`

from tfps.cluster import connection
from tfps.inputs import chief_dataset
from tfps.keras import bfloat16_steps, exporting, inner_functions, row_functions, sparse_products
from tfps.keras._compat import EXPORT_ARCHIVE
from tfps.keras.hooks import replacing
from tfps.ops.bias_gradient import bias_add


def install() -> None:
    """Installs the hooks."""
    _install_export()
    function = type(tf.function(lambda: None))
    in_step = lambda *args, **kwargs: inner_functions.is_in_traced_step()  # noqa: E731
    replacing.replace(function, "__call__", inner_functions.run_inline, in_step)
    # Programs look at their data and adapt layers to it, maybe to a dataset that they made before the strategy.
    iterates = lambda stock, dataset: stock(chief_dataset.move_to_this_context(dataset))  # noqa: E731
    replacing.replace(tf.data.Dataset, "__iter__", iterates, chief_dataset.is_stranded)
    replacing.replace(tf.nn, "bias_add", bias_add, bfloat16_steps.has_own_bias_gradient)
    replacing.replace(tf, "vectorized_map", inner_functions.map_with_lookups, in_step)
    replacing.replace(tf.sparse, "sparse_dense_matmul", sparse_products.multiply, sparse_products.is_of_table)
    for lookup in (row_functions.embedding_lookup_sparse, row_functions.safe_embedding_lookup_sparse):
        replacing.replace(tf.nn, lookup.__name__, lookup, row_functions.is_for_table)


def _install_export() -> None:
    # What is saved may hold models of ours or none: only the objects that it reaches tell. Before the first strategy it
    # holds none.
    connected = lambda *args, **kwargs: connection.current() is not None  # noqa: E731
    replacing.replace(EXPORT_ARCHIVE, "write_out", exporting.write_out, connected)
    replacing.replace(saved_model, "save_and_return_nodes", exporting.save, connected)
    replacing.replace(polymorphic_function.Function, "get_concrete_function", exporting.record_source, connected)
