"""Prepares datasets that the chief reads itself, and turns their batches into tensors."""

import tensorflow as tf
from tensorflow.python.data.ops import dataset_ops  # a dataset made from its variant is not public

from tfps.cluster import devices
from tfps.inputs.dataset_graph import strip_devices
from tfps.types import Nest


def move_to_this_context(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the dataset on a device that exists.

    When a strategy connects to a cluster, TensorFlow renames the chief's device from "/job:localhost/..." to
    "/job:chief/...". A dataset that was made before that is still on the old device, and iterating over it fails.
    """
    if not is_stranded(dataset):
        return dataset
    variant = tf.raw_ops.DatasetFromGraph(graph_def=strip_devices(dataset).SerializeToString())
    moved = dataset_ops._VariantDataset(variant, dataset.element_spec)
    # The graph calls Python functions by name, and the first dataset keeps these functions alive.
    moved.made_from = dataset
    return moved


def is_stranded(dataset: tf.data.Dataset) -> bool:
    """Whether a dataset was made before this process connected to a cluster, so that it cannot be iterated over."""
    # In a graph, devices do not tell.
    if not tf.executing_eagerly() or not devices.is_unconnected(dataset._variant_tensor.device):
        return False
    # A small tensor tells the current name of the device.
    return not devices.is_unconnected(tf.constant(0).device)


def as_tensor(value: Nest) -> tf.Tensor | tf.RaggedTensor | tf.SparseTensor | None:
    """Converts a part of a batch to a tensor. Ragged and sparse tensors stay as they are, and so does None."""
    # Keras passes None for labels that are missing.
    return value if value is None or tf.is_tensor(value) else tf.convert_to_tensor(value)
