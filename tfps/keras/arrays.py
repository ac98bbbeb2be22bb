"""Turns arrays that are given to `fit` into a dataset that each worker can iterate over its own input shard.

Keras's own dataset draws its permutation when it is built, so a shipped copy would repeat the same order in every
epoch. Here `Dataset.shuffle` makes the order. It shuffles row numbers only, so a worker reads the rows of its own
batches and of no others.
"""

import numpy as np
import tensorflow as tf

from tfps.keras._compat import ArrayDataAdapter, DataAdapter, array_slicing, tree


def make_dataset(adapter: DataAdapter) -> tf.data.Dataset:
    """Returns the dataset of a Keras data adapter."""
    if not isinstance(adapter, ArrayDataAdapter):
        return adapter.get_tf_dataset()
    arrays = tree.lists_to_tuples(array_slicing.convert_to_sliceable(adapter._inputs, target_backend="tensorflow"))
    if not all(isinstance(array, np.ndarray | tf.Tensor) for array in tree.flatten(arrays) if array is not None):
        # Keras slices sparse and ragged arrays in a special way, which `tf.gather` cannot replace.
        return adapter.get_tf_dataset()
    arrays = tree.map_structure(lambda array: None if array is None else tf.convert_to_tensor(array), arrays)
    return _row_batches(adapter).map(
        lambda rows: tree.map_structure(lambda array: _gather(array, rows), arrays), num_parallel_calls=2
    )


def _row_batches(adapter: ArrayDataAdapter) -> tf.data.Dataset:
    """Makes a dataset of row numbers, int64 [batch], in the order of an epoch."""
    rows = tf.data.Dataset.range(adapter._num_samples)
    if adapter._shuffle == "batch":
        # shuffle="batch" keeps the rows of a batch together and shuffles the batches.
        return rows.batch(adapter._batch_size).shuffle(max(1, -(-adapter._num_samples // adapter._batch_size)))
    if adapter._shuffle:
        # An empty array has no rows, but `shuffle` needs a size.
        rows = rows.shuffle(max(1, adapter._num_samples))
    return rows.batch(adapter._batch_size)


def _gather(array: tf.Tensor | None, rows: tf.Tensor) -> tf.Tensor | None:
    # Missing sample weights are None.
    return None if array is None else tf.gather(array, rows, axis=0)
