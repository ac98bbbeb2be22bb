"""Arrays given to `fit` as a dataset of batches that every worker can run over for its share only.

Keras draws a permutation inside its dataset, which after shipping would be the same in every epoch; here the order
comes from `Dataset.shuffle`, and the batch is cut out of the arrays after a worker knows that it is its own.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from tfps.keras._compat import ArrayDataAdapter, array_slicing, tree


def dataset_of(adapter: Any) -> Any:
    """The dataset of a Keras data adapter."""
    if not isinstance(adapter, ArrayDataAdapter):
        return adapter.get_tf_dataset()
    arrays = tree.lists_to_tuples(array_slicing.convert_to_sliceable(adapter._inputs, target_backend="tensorflow"))
    if not all(isinstance(array, np.ndarray | tf.Tensor) for array in tree.flatten(arrays) if array is not None):
        return adapter.get_tf_dataset()  # sparse and ragged ones are cut in a way of their own
    arrays = tree.map_structure(lambda array: None if array is None else tf.convert_to_tensor(array), arrays)
    return _order(adapter).map(lambda rows: tree.map_structure(lambda a: _cut(a, rows), arrays), num_parallel_calls=2)


def _order(adapter: Any) -> Any:
    """Batches of row numbers."""
    rows = tf.data.Dataset.range(adapter._num_samples)
    if adapter._shuffle == "batch":
        return rows.batch(adapter._batch_size).shuffle(-(-adapter._num_samples // adapter._batch_size))
    if adapter._shuffle:
        rows = rows.shuffle(adapter._num_samples)
    return rows.batch(adapter._batch_size)


def _cut(array: Any, rows: Any) -> Any:
    return None if array is None else tf.gather(array, rows, axis=0)
