"""Iterators on workers: made over a dataset there, read inside a closure.

An iterator has no name. It lives as long as its handle, a tensor of the chief that refers to it: when the last epoch
that reads it is dropped, TensorFlow deletes it on its worker, with its threads and the batches that it read ahead.
A name would keep it, because a graph that names an iterator holds it, and TensorFlow never frees the kernels of a graph
whose operations are on several tasks.

For the same reason closures read by `IteratorGetNextSync`: the kernel of every other operation that reads an iterator
starts a thread of its own, and would keep it. That one has no form that gives an empty Optional at the end, so the
datasets of workers have Optionals as elements, and after the last batch empty ones without end.
"""

import dataclasses
from typing import TypedDict

import tensorflow as tf
from tensorflow.python.data.ops import optional_ops  # an Optional made from its variant is not public
from tensorflow.python.data.util import structure

from tfps.types import Nest

_PREFETCH = 4
"""Batches a worker reads ahead."""


class ElementTypes(TypedDict):
    """The attributes of a dataset operation that say what its elements are."""

    output_types: list[tf.DType]
    output_shapes: list[tf.TensorShape]


_OPTIONALS = ElementTypes(output_types=[tf.variant], output_shapes=[tf.TensorShape([])])


@dataclasses.dataclass(frozen=True, eq=False)
class WorkerIterator:
    """An iterator on one worker.

    Args:
        kind: name of the closures that read iterators like this one.
        handle: the iterator, a resource scalar on its worker.
    """

    kind: str
    handle: tf.Tensor


def element_types(element_spec: Nest) -> ElementTypes:
    """Types and shapes of the tensors of an element.

    Example: (TensorSpec([None, 4]), TensorSpec([None], tf.int64)) has the types [float32, int64].
    """
    return ElementTypes(
        output_types=structure.get_flat_tensor_types(element_spec),
        output_shapes=structure.get_flat_tensor_shapes(element_spec),
    )


def worker_dataset(dataset: tf.Tensor, element_spec: Nest) -> tf.Tensor:
    """A dataset for a worker's iterator: Optionals of batches, some read ahead, and then empty Optionals for ever.

    TensorFlow's thread that tunes a dataset is off. An iterator that is deleted waits for that thread, which may sleep
    for many seconds before it notices.

    Args:
        dataset: of batches, on the device of the caller, a variant scalar.
        element_spec: of a batch.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    endless = tf.raw_ops.ConcatenateDataset(
        input_dataset=_wrap_in_optionals(dataset, element_spec), another_dataset=_make_empty_optionals(), **_OPTIONALS
    )
    ahead = tf.raw_ops.PrefetchDataset(input_dataset=endless, buffer_size=_PREFETCH, **_OPTIONALS)
    serialized = options._to_proto().SerializeToString()
    return tf.raw_ops.OptionsDataset(input_dataset=ahead, serialized_options=serialized, **_OPTIONALS)


def _wrap_in_optionals(dataset: tf.Tensor, element_spec: Nest) -> tf.Tensor:
    kinds = element_types(element_spec)
    with tf.device(None):  # the function runs where the dataset is
        wrap = tf.function(lambda *tensors: tf.raw_ops.OptionalFromValue(components=tensors), autograph=False)
        function = wrap.get_concrete_function(*map(tf.TensorSpec, kinds["output_shapes"], kinds["output_types"]))
    return tf.raw_ops.MapDataset(
        input_dataset=dataset,
        other_arguments=[],
        f=function,
        use_inter_op_parallelism=False,  # it only wraps: another thread would cost more than it does
        preserve_cardinality=True,
        **_OPTIONALS,
    )


def _make_empty_optionals() -> tf.Tensor:
    one = tf.raw_ops.TensorDataset(components=[tf.raw_ops.OptionalNone()], output_shapes=_OPTIONALS["output_shapes"])
    return tf.raw_ops.RepeatDataset(input_dataset=one, count=-1, **_OPTIONALS)


def make_iterator(dataset: tf.Tensor, epochs: int = 1) -> tf.Tensor:
    """Makes an iterator on the device of the caller.

    Args:
        dataset: a `worker_dataset` on that device.
        epochs: how often iteration begins. A shuffle draws new numbers each time, so the third epoch of a dataset is
            read by an iterator that began three times.

    Returns:
        Its handle. The iterator is deleted when nothing refers to the handle.
    """
    handle = tf.raw_ops.AnonymousIteratorV3(**_OPTIONALS)
    for _ in range(epochs):
        tf.raw_ops.MakeIterator(dataset=dataset, iterator=handle)
    return handle


def next_batch(handle: tf.Tensor, element_spec: Nest) -> tf.experimental.Optional:
    """Reads the next batch of an iterator on this task, in a closure; an empty Optional after the last.

    Cost: the thread that runs the operation waits where no batch was read ahead.

    Args:
        handle: of the iterator.
        element_spec: of a batch.
    """
    (optional,) = tf.raw_ops.IteratorGetNextSync(iterator=handle, **_OPTIONALS)
    return optional_ops._OptionalImpl(optional, element_spec)
