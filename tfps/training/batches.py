"""Batches inside a closure: read one after the other, or all of a closure kept as tensors that loops write and read."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from tfps.inputs.iterators import WorkerIterator, next_batch
from tfps.types import Nest

NextBatch: TypeAlias = Callable[[], tf.experimental.Optional]
"""Traces the read of one batch; the Optional is empty at the end of the input."""


class WorkerBatches:
    """The input of a closure over the worker's own iterator. To be made while the closure is traced.

    Args:
        iterator: on the worker.
        element_spec: of a batch.
    """

    def __init__(self, iterator: WorkerIterator, element_spec: Nest) -> None:
        self._name, self._spec = iterator.kind, element_spec
        self.next: NextBatch = functools.partial(next_batch, iterator.handle, element_spec)

    def next_or_again(self, again: tf.Tensor) -> tf.experimental.Optional:
        """The next batch, or the one before once more.

        Cost: the worker keeps a copy of the last batch.

        Args:
            again: bool scalar, whether to give the last batch once more.
        """
        return _next_or_again(self._name, self._spec, self.next, again)


def where_there(there: tf.Tensor, take: Callable[[], Nest], nothing: Nest) -> Nest:
    """What `take` gives where `there` is true, else `nothing`.

    Args:
        there: bool scalar.
        take: gives tensors.
        nothing: tensors of the same types and ranks; sizes may differ.
    """
    # A loop of one turn, because a branch of TensorFlow cannot capture what differs between workers, such as the hash
    # table of a lookup layer. A loop can.
    shapes = tf.nest.map_structure(lambda tensor: tf.TensorShape([None] * tensor.shape.rank), nothing)
    _, found = tf.while_loop(
        lambda there, _: there,
        lambda *_: (False, take()),
        (there, nothing),
        shape_invariants=(tf.TensorShape([]), shapes),
    )
    return found


def next_unless(last: tf.Tensor, next_batch: NextBatch, batch: tf.experimental.Optional) -> tf.experimental.Optional:
    """The next batch of the input; an empty one, and nothing read, after the last.

    Args:
        last: bool scalar, whether `batch` is the last one wanted.
        next_batch: reads one.
        batch: the one before.
    """
    return tf.cond(last, lambda: tf.experimental.Optional.empty(batch.element_spec), next_batch)


def _next_or_again(name: str, element_spec: Nest, next_batch: NextBatch, again: tf.Tensor) -> tf.experimental.Optional:
    """See `WorkerBatches.next_or_again`; `name` is that of the iterator."""
    whole = tf.nest.flatten(element_spec, expand_composites=True)
    leaves = [leaf for leaf in whole if hasattr(leaf, "dtype")]
    # A variable of the worker for each tensor of the batch. They outlive the closure: the next one may ask again.
    handles = [
        tf.raw_ops.VarHandleOp(dtype=leaf.dtype, shape=leaf.shape, shared_name=f"tfps_batch_{name}_{number}")
        for number, leaf in enumerate(leaves)
    ]

    def last() -> tf.experimental.Optional:
        values = iter(
            tf.raw_ops.ReadVariableOp(resource=handle, dtype=leaf.dtype)
            for handle, leaf in zip(handles, leaves, strict=True)
        )
        filled = [next(values) if hasattr(leaf, "dtype") else tf.experimental.Optional.empty(None) for leaf in whole]
        return tf.experimental.Optional.from_value(
            tf.nest.pack_sequence_as(element_spec, filled, expand_composites=True)
        )

    def keep(batch: Nest) -> tf.Tensor:
        tensors = tf.nest.flatten(batch, expand_composites=True)
        given = [tensor for tensor, leaf in zip(tensors, whole, strict=True) if hasattr(leaf, "dtype")]
        for handle, tensor in zip(handles, given, strict=True):
            tf.raw_ops.AssignVariableOp(resource=handle, value=tensor)
        return tf.constant(0)

    def following() -> tf.experimental.Optional:
        batch = next_batch()
        # At the end of the input there is nothing to keep: the last batch stays what it was.
        tf.cond(batch.has_value(), lambda: keep(batch.get_value()), lambda: tf.constant(0))
        return batch

    return tf.cond(again, last, following)


class Batches:
    """Several batches as tensors that a loop can write and read.

    Args:
        spec: of a batch.
        arrays: those of an earlier turn of the loop; new ones where None.

    Attributes:
        arrays: one tensor array for each tensor of a batch.
    """

    def __init__(self, spec: Nest, arrays: Sequence[tf.TensorArray] | None = None) -> None:
        self._spec = spec
        # A missing label or weight is None in a batch: it has no dtype, and no array.
        self._leaves = [leaf for leaf in tf.nest.flatten(spec, expand_composites=True) if hasattr(leaf, "dtype")]
        self.arrays = (
            [growing_array(leaf.dtype, leaf.shape) for leaf in self._leaves] if arrays is None else list(arrays)
        )

    def with_batch(self, number: tf.Tensor | int, batch: Nest) -> "Batches":
        """These batches and one more, with that number."""
        leaves = [leaf for leaf in tf.nest.flatten(batch, expand_composites=True) if leaf is not None]
        return Batches(self._spec, [a.write(number, leaf) for a, leaf in zip(self.arrays, leaves, strict=True)])

    def batch(self, number: tf.Tensor) -> Nest:
        """The batch of that number."""
        return self._pack(
            [
                tf.ensure_shape(array.read(number), leaf.shape)
                for array, leaf in zip(self.arrays, self._leaves, strict=True)
            ]
        )

    def concatenate(self) -> Nest:
        """All of them as one batch, along the first dimension, which each tensor must have."""
        return self._pack([array.concat() for array in self.arrays])

    def _pack(self, tensors: Sequence[tf.Tensor]) -> Nest:
        """A batch of these tensors, with None where its spec has no tensor."""
        values = iter(tensors)
        whole = tf.nest.flatten(self._spec, expand_composites=True)
        filled = [next(values) if hasattr(leaf, "dtype") else None for leaf in whole]
        return tf.nest.pack_sequence_as(self._spec, filled, expand_composites=True)


def growing_array(dtype: tf.DType, shape: tf.TensorShape) -> tf.TensorArray:
    """Tensors of one type and of shapes that fit `shape`, written one by one and read any number of times."""
    return tf.TensorArray(dtype, 0, dynamic_size=True, infer_shape=False, element_shape=shape, clear_after_read=False)


def one_by_one(batches: Sequence[Nest]) -> NextBatch:
    """Gives fed batches as a worker's iterator would: each call takes the next.

    Args:
        batches: of one shape.
    """
    spec = tf.nest.map_structure(tf.type_spec_from_value, batches[0])
    # All batches become tensor arrays, which a loop can index by a tensor; a Python list it could not.
    kept = Batches(spec)
    for number, batch in enumerate(batches):
        kept = kept.with_batch(number, batch)
    # The position is a variable of the worker, like that of an iterator: loops read batches in different turns.
    # Closures of one worker run one after the other, and each begins at 0, so they can share it.
    taken = tf.raw_ops.VarHandleOp(dtype=tf.int32, shape=[], shared_name="tfps_batches_taken")
    tf.raw_ops.AssignVariableOp(resource=taken, value=0)

    def next_batch() -> tf.experimental.Optional:
        number = tf.raw_ops.ReadVariableOp(resource=taken, dtype=tf.int32)
        tf.raw_ops.AssignVariableOp(resource=taken, value=number + 1)
        return tf.cond(
            number < len(batches),
            lambda: tf.experimental.Optional.from_value(kept.batch(number)),
            lambda: tf.experimental.Optional.empty(spec),
        )

    return next_batch


def of_one_shape(batches: Sequence[Nest]) -> list[Nest]:
    """Batches whose static shapes forget the sizes in which they differ, such as that of an epoch's last batch.

    Example: batches of shapes [32, 4] and [7, 4] both become [None, 4].
    """

    def forget(*leaves: Any) -> list[tf.Tensor]:
        if leaves[0] is None:
            return list(leaves)
        shape = functools.reduce(lambda a, b: a.most_specific_compatible_shape(b), [leaf.shape for leaf in leaves])
        return [tf.compat.v1.placeholder_with_default(leaf, shape) for leaf in leaves]

    flat = [tf.nest.flatten(batch, expand_composites=True) for batch in batches]
    columns = [forget(*leaves) for leaves in zip(*flat, strict=True)]
    return [
        tf.nest.pack_sequence_as(batches[0], [column[i] for column in columns], expand_composites=True)
        for i in range(len(batches))
    ]
