"""Datasets that the chief reads itself, and their batches as tensors."""

import tensorflow as tf
from tensorflow.python.data.ops import dataset_ops  # a dataset made from its variant is not public

from tfps.cluster import devices
from tfps.inputs.dataset_graph import strip_devices
from tfps.types import Nest


def move_to_this_context(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset on a device that exists.

    The chief's device is renamed when a strategy connects to a cluster: "/job:localhost/..." becomes "/job:chief/...".
    A dataset that was made before is still on the old one, and cannot be iterated over.
    """
    connected = not devices.is_unconnected(tf.constant(0).device)
    if not connected or not devices.is_unconnected(dataset._variant_tensor.device):
        return dataset
    variant = tf.raw_ops.DatasetFromGraph(graph_def=strip_devices(dataset).SerializeToString())
    moved = dataset_ops._VariantDataset(variant, dataset.element_spec)
    moved.made_from = dataset  # keeps the Python functions that its graph calls by name
    return moved


def as_tensor(value: Nest) -> tf.Tensor | tf.RaggedTensor | tf.SparseTensor | None:
    """A part of a batch of the chief as a tensor. Ragged and sparse ones are tensors, and a missing label is None."""
    return value if value is None or tf.is_tensor(value) else tf.convert_to_tensor(value)
