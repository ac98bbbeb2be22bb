"""Makes iterators on workers, and reads them inside closures.

An iterator has no name. It lives as long as its handle, a tensor of the chief. When the last epoch that reads it is
dropped, TensorFlow deletes the iterator on its worker, with its threads and the batches that it has read ahead. A named
iterator would stay: a graph that names an iterator holds it, and TensorFlow never frees the kernels of a graph whose
operations are on several tasks.

For the same reason closures read iterators by `IteratorGetNextSync`. The kernels of all other operations that read an
iterator start a thread, which would also stay. `IteratorGetNextSync` has no variant that returns an empty Optional at
the end. So the elements of a worker's dataset are Optionals, and after the last batch come endless empty Optionals.
"""

import dataclasses
from typing import TypedDict

import tensorflow as tf
from tensorflow.python.data.ops import optional_ops  # an Optional made from its variant is not public
from tensorflow.python.data.util import structure

from tfps.stages import INPUT, in_stage
from tfps.types import Nest

_PREFETCH = 4
"""The number of batches that a worker reads ahead."""


class ElementTypes(TypedDict):
    """The attributes of a dataset operation that describe its elements."""

    output_types: list[tf.DType]
    output_shapes: list[tf.TensorShape]


_OPTIONALS = ElementTypes(output_types=[tf.variant], output_shapes=[tf.TensorShape([])])


@dataclasses.dataclass(frozen=True, eq=False)
class WorkerIterator:
    """An iterator on one worker.

    Args:
        kind: the name of the closures that read this iterator.
        handle: the iterator, a resource scalar on its worker.
    """

    kind: str
    handle: tf.Tensor


def element_types(element_spec: Nest) -> ElementTypes:
    """Returns the types and shapes of the tensors of an element.

    Example: (TensorSpec([None, 4]), TensorSpec([None], tf.int64)) has the types [float32, int64].
    """
    return ElementTypes(
        output_types=structure.get_flat_tensor_types(element_spec),
        output_shapes=structure.get_flat_tensor_shapes(element_spec),
    )


def make_worker_dataset(dataset: tf.Tensor, element_spec: Nest) -> tf.Tensor:
    """Makes the dataset that a worker's iterator reads: an Optional for each batch, and then endless empty Optionals.

    Args:
        dataset: a dataset of batches on the current device, a variant scalar.
        element_spec: the structure of a batch.

    Returns:
        The dataset, a variant scalar.
    """
    options = tf.data.Options()
    # Deleting an iterator waits for the thread that tunes its dataset, and that thread may sleep for many seconds.
    options.autotune.enabled = False
    endless = tf.raw_ops.ConcatenateDataset(
        input_dataset=_wrap_in_optionals(dataset, element_spec), another_dataset=_make_empty_optionals(), **_OPTIONALS
    )
    ahead = tf.raw_ops.PrefetchDataset(input_dataset=endless, buffer_size=_PREFETCH, **_OPTIONALS)
    serialized = options._to_proto().SerializeToString()
    return tf.raw_ops.OptionsDataset(input_dataset=ahead, serialized_options=serialized, **_OPTIONALS)


def _wrap_in_optionals(dataset: tf.Tensor, element_spec: Nest) -> tf.Tensor:
    """Makes a dataset with an Optional for each element of a dataset."""
    types = element_types(element_spec)
    # The graph of the function names no device, so it runs where the dataset is.
    with tf.device(None):
        wrap = tf.function(lambda *tensors: tf.raw_ops.OptionalFromValue(components=tensors), autograph=False)
        function = wrap.get_concrete_function(*map(tf.TensorSpec, types["output_shapes"], types["output_types"]))
    # The function only wraps tensors, so another thread would cost more than it saves.
    return tf.raw_ops.MapDataset(
        input_dataset=dataset,
        other_arguments=[],
        f=function,
        use_inter_op_parallelism=False,
        preserve_cardinality=True,
        **_OPTIONALS,
    )


def _make_empty_optionals() -> tf.Tensor:
    """Makes a dataset of endless empty Optionals."""
    one = tf.raw_ops.TensorDataset(components=[tf.raw_ops.OptionalNone()], output_shapes=_OPTIONALS["output_shapes"])
    return tf.raw_ops.RepeatDataset(input_dataset=one, count=-1, **_OPTIONALS)


def make_iterator(dataset: tf.Tensor, epochs: int = 1) -> tf.Tensor:
    """Makes an iterator on the current device.

    Args:
        dataset: a `make_worker_dataset` on that device.
        epochs: the number of times that the iteration begins. A shuffle draws a new order each time, so an iterator
            that begins three times reads the order of the third epoch.

    Returns:
        The handle of the iterator. TensorFlow deletes the iterator when nothing refers to the handle.
    """
    handle = tf.raw_ops.AnonymousIteratorV3(**_OPTIONALS)
    for _ in range(epochs):
        tf.raw_ops.MakeIterator(dataset=dataset, iterator=handle)
    return handle


@in_stage(INPUT)
def next_batch(handle: tf.Tensor, element_spec: Nest) -> tf.experimental.Optional:
    """Reads the next batch of an iterator on this task, inside a closure.

    Cost: if no batch was read ahead, the thread that runs the operation waits for one.

    Args:
        handle: the handle of the iterator.
        element_spec: the structure of a batch.

    Returns:
        The batch; an empty Optional after the last batch.
    """
    (optional,) = tf.raw_ops.IteratorGetNextSync(iterator=handle, **_OPTIONALS)
    return optional_ops._OptionalImpl(optional, element_spec)
