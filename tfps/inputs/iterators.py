"""Iterators on workers: made over a dataset there, read inside a closure.

An iterator has no name. It lives as long as its handle, a tensor of the chief that refers to it: when the last epoch
that reads it is dropped, TensorFlow deletes it on its worker, with its threads and the batches that it read ahead.
A name would keep it: a graph that names an iterator holds it, and TensorFlow never frees the kernels of a graph whose
operations are on several tasks.
"""

import dataclasses
from typing import Any, TypedDict

import tensorflow as tf
from tensorflow.python.data.ops import iterator_ops  # an iterator made from its handle is not public
from tensorflow.python.data.util import structure

from tfps.types import Nest

_PREFETCH = 4
"""Batches a worker reads ahead."""


class Kinds(TypedDict):
    """The attributes of a dataset operation that say what its elements are."""

    output_types: list[tf.DType]
    output_shapes: list[tf.TensorShape]


@dataclasses.dataclass(frozen=True, eq=False)
class WorkerIterator:
    """An iterator on one worker.

    Args:
        kind: name of the closures that read iterators like this one.
        handle: the iterator, a resource scalar on its worker.
    """

    kind: str
    handle: tf.Tensor


def kinds_of(element_spec: Nest) -> Kinds:
    """Types and shapes of the tensors of an element.

    Example: (TensorSpec([None, 4]), TensorSpec([None], tf.int64)) has the types [float32, int64].
    """
    return Kinds(
        output_types=structure.get_flat_tensor_types(element_spec),
        output_shapes=structure.get_flat_tensor_shapes(element_spec),
    )


def make_iterator(dataset: tf.Tensor, element_spec: Nest, epochs: int = 1) -> tf.Tensor:
    """Makes an iterator on the device of the caller.

    Args:
        dataset: a dataset on that device, a variant scalar.
        element_spec: of its elements.
        epochs: how often iteration begins. A shuffle draws new numbers each time, so the third epoch of a dataset is
            read by an iterator that began three times.

    Returns:
        Its handle. The iterator is deleted when nothing refers to the handle.
    """
    handle = tf.raw_ops.AnonymousIteratorV3(**kinds_of(element_spec))
    for _ in range(epochs):
        tf.raw_ops.MakeIterator(dataset=dataset, iterator=handle)
    return handle


def as_iterator(handle: tf.Tensor, element_spec: Nest) -> tf.data.Iterator:
    """An iterator on this task as a Python object, in a closure."""
    return iterator_ops.OwnedIterator(components=[handle], element_spec=element_spec)


def read_ahead(dataset: tf.Tensor, element_spec: Nest) -> tf.Tensor:
    """A dataset that reads some batches ahead, without TensorFlow's thread that tunes it.

    An iterator that is deleted waits for that thread, which may sleep for many seconds before it notices.

    Args:
        dataset: on the device of the caller, a variant scalar.
        element_spec: of its elements.
    """
    options: Any = tf.data.Options()
    options.autotune.enabled = False
    kinds = kinds_of(element_spec)
    ahead = tf.raw_ops.PrefetchDataset(input_dataset=dataset, buffer_size=_PREFETCH, **kinds)
    serialized = options._to_proto().SerializeToString()
    return tf.raw_ops.OptionsDataset(input_dataset=ahead, serialized_options=serialized, **kinds)
