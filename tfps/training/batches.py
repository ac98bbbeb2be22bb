"""Batches inside a closure: read one by one, or stored as tensor arrays that loops write and read."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf

from tfps.inputs.iterators import WorkerIterator, next_batch
from tfps.types import Nest

NextBatch: TypeAlias = Callable[[], tf.experimental.Optional]
"""Traces the read of one batch. The Optional is empty at the end of the input."""


class WorkerBatches:
    """The input of a closure that reads the worker's own iterator. Create it while the closure is traced.

    Args:
        iterator: the iterator on the worker.
        element_spec: the specs of the tensors of a batch.

    Attributes:
        name: the kind of the iterator; each worker has one iterator of a kind.
        element_spec: the same.
    """

    def __init__(self, iterator: WorkerIterator, element_spec: Nest) -> None:
        self.name, self.element_spec = iterator.kind, element_spec
        self.next: NextBatch = functools.partial(next_batch, iterator.handle, element_spec)

    def read_or_repeat(self, repeat: tf.Tensor) -> tf.experimental.Optional:
        """Reads the next batch, or returns the previous one again.

        Cost: the worker keeps a copy of the last batch.

        Args:
            repeat: bool scalar, whether to return the previous batch again.
        """
        return _read_or_repeat(self.name, self.element_spec, self.next, repeat)


def run_if(condition: tf.Tensor, function: Callable[[], Nest], default: Nest) -> Nest:
    """Returns the result of `function` where `condition` is true, else `default`.

    Args:
        condition: bool scalar.
        function: traces the operations and returns their tensors.
        default: tensors of the same types and ranks; their sizes may differ.
    """
    # This is a loop of at most one turn. `tf.cond` cannot capture a resource that differs between workers, such as the
    # hash table of a lookup layer; a loop can.
    shapes = tf.nest.map_structure(lambda tensor: tf.TensorShape([None] * tensor.shape.rank), default)
    _, result = tf.while_loop(
        lambda pending, _: pending,
        lambda *_: (False, function()),
        (condition, default),
        shape_invariants=(tf.TensorShape([]), shapes),
    )
    return result


def read_next_unless(
    last: tf.Tensor, next_batch: NextBatch, batch: tf.experimental.Optional
) -> tf.experimental.Optional:
    """Reads the next batch. After the last one it reads nothing and returns an empty Optional.

    Args:
        last: bool scalar, whether `batch` is the last batch that is needed.
        next_batch: reads a batch.
        batch: the batch read before.
    """
    return tf.cond(last, lambda: tf.experimental.Optional.empty(batch.element_spec), next_batch)


class StoredBatch:
    """A batch that a worker keeps after the closure that read it.

    Args:
        name: a name that no other stored batch of the worker has.
        element_spec: the specs of the tensors of the batch.
    """

    def __init__(self, name: str, element_spec: Nest) -> None:
        self._spec = element_spec
        self._whole = tf.nest.flatten(element_spec, expand_composites=True)
        leaves = [leaf for leaf in self._whole if hasattr(leaf, "dtype")]
        # The worker has a variable for each tensor of the batch.
        names = [f"tfps_batch_{name}_{number}" for number in range(len(leaves))]
        self._parts = [
            (tf.raw_ops.VarHandleOp(dtype=leaf.dtype, shape=leaf.shape, shared_name=one), leaf)
            for one, leaf in zip(names, leaves, strict=True)
        ]

    def read(self) -> tf.experimental.Optional:
        """Returns the batch that was stored last."""
        values = iter([tf.raw_ops.ReadVariableOp(resource=handle, dtype=leaf.dtype) for handle, leaf in self._parts])
        filled = [
            next(values) if hasattr(leaf, "dtype") else tf.experimental.Optional.empty(None) for leaf in self._whole
        ]
        return tf.experimental.Optional.from_value(tf.nest.pack_sequence_as(self._spec, filled, expand_composites=True))

    def store(self, batch: tf.experimental.Optional) -> None:
        """Stores a batch; one without a value changes nothing."""

        def write() -> tf.Tensor:
            tensors = tf.nest.flatten(batch.get_value(), expand_composites=True)
            values = [tensor for tensor, leaf in zip(tensors, self._whole, strict=True) if hasattr(leaf, "dtype")]
            for (handle, _), value in zip(self._parts, values, strict=True):
                tf.raw_ops.AssignVariableOp(resource=handle, value=value)
            return tf.constant(0)

        tf.cond(batch.has_value(), write, lambda: tf.constant(0))


def _read_or_repeat(
    name: str, element_spec: Nest, next_batch: NextBatch, repeat: tf.Tensor
) -> tf.experimental.Optional:
    """Implements `WorkerBatches.read_or_repeat`; `name` is the name of the iterator."""
    # It outlives the closure, because the next one may need the batch.
    stored = StoredBatch(name, element_spec)

    def next_stored_batch() -> tf.experimental.Optional:
        batch = next_batch()
        # At the end of the input there is nothing to store, and the last batch stays as it is.
        stored.store(batch)
        return batch

    return tf.cond(repeat, stored.read, next_stored_batch)


class Batches:
    """Several batches as tensor arrays that a loop can write and read.

    Args:
        spec: the specs of the tensors of a batch.
        arrays: the arrays from an earlier turn of the loop; None for new ones.

    Attributes:
        arrays: one tensor array for each tensor of a batch.
    """

    def __init__(self, spec: Nest, arrays: Sequence[tf.TensorArray] | None = None) -> None:
        self._spec = spec
        # A missing label or weight is None in a batch: it has no dtype and gets no array.
        self._leaves = [leaf for leaf in tf.nest.flatten(spec, expand_composites=True) if hasattr(leaf, "dtype")]
        self.arrays = (
            [make_growing_array(leaf.dtype, leaf.shape) for leaf in self._leaves] if arrays is None else list(arrays)
        )

    def with_batch(self, number: tf.Tensor | int, batch: Nest) -> "Batches":
        """Returns these batches with one more at position `number`."""
        leaves = [leaf for leaf in tf.nest.flatten(batch, expand_composites=True) if leaf is not None]
        return Batches(self._spec, [a.write(number, leaf) for a, leaf in zip(self.arrays, leaves, strict=True)])

    def batch(self, number: tf.Tensor) -> Nest:
        """Returns the batch at position `number`."""
        return self._pack(
            [
                tf.ensure_shape(array.read(number), leaf.shape)
                for array, leaf in zip(self.arrays, self._leaves, strict=True)
            ]
        )

    def concatenate(self) -> Nest:
        """Concatenates all batches along the first dimension, which every tensor must have."""
        return self._pack([array.concat() for array in self.arrays])

    def _pack(self, tensors: Sequence[tf.Tensor]) -> Nest:
        """Packs tensors into a batch, with None where its spec has no tensor."""
        values = iter(tensors)
        whole = tf.nest.flatten(self._spec, expand_composites=True)
        filled = [next(values) if hasattr(leaf, "dtype") else None for leaf in whole]
        return tf.nest.pack_sequence_as(self._spec, filled, expand_composites=True)


def make_growing_array(dtype: tf.DType, shape: tf.TensorShape) -> tf.TensorArray:
    """Creates an array that grows as it is written and can be read many times; elements are compatible with `shape`."""
    # By default a TensorArray frees an element when it is read, and takes the shape of the first one for all.
    return tf.TensorArray(dtype, 0, dynamic_size=True, infer_shape=False, element_shape=shape, clear_after_read=False)


def make_batch_reader(batches: Sequence[Nest]) -> NextBatch:
    """Returns a function that reads fed batches one by one, as from a worker's iterator.

    Args:
        batches: batches with the same static shapes.
    """
    spec = tf.nest.map_structure(tf.type_spec_from_value, batches[0])
    # A loop indexes batches by a tensor, which works for tensor arrays but not for a Python list.
    stored = Batches(spec)
    for number, batch in enumerate(batches):
        stored = stored.with_batch(number, batch)
    # The position is a variable on the worker, as in an iterator, because loops read batches in different turns.
    # All closures of a worker share it: they run one after the other, and each starts at 0.
    position = tf.raw_ops.VarHandleOp(dtype=tf.int32, shape=[], shared_name="tfps_batches_taken")
    tf.raw_ops.AssignVariableOp(resource=position, value=0)

    def next_batch() -> tf.experimental.Optional:
        number = tf.raw_ops.ReadVariableOp(resource=position, dtype=tf.int32)
        tf.raw_ops.AssignVariableOp(resource=position, value=number + 1)
        return tf.cond(
            number < len(batches),
            lambda: tf.experimental.Optional.from_value(stored.batch(number)),
            lambda: tf.experimental.Optional.empty(spec),
        )

    return next_batch


def unify_shapes(batches: Sequence[Nest]) -> list[Nest]:
    """Removes from static shapes the sizes in which batches differ, such as the size of an epoch's last batch.

    Example: batches of shapes [32, 4] and [7, 4] both become [None, 4].
    """

    def unify(*leaves: Nest) -> list[Nest]:
        if leaves[0] is None:
            # A label or weight that is missing in one batch is missing in all.
            return list(leaves)
        shape = functools.reduce(lambda a, b: a.most_specific_compatible_shape(b), [leaf.shape for leaf in leaves])
        # A placeholder with a default passes its value on and hides the static shape of it.
        return [tf.compat.v1.placeholder_with_default(leaf, shape) for leaf in leaves]

    flat = [tf.nest.flatten(batch, expand_composites=True) for batch in batches]
    columns = [unify(*leaves) for leaves in zip(*flat, strict=True)]
    return [
        tf.nest.pack_sequence_as(batches[0], [column[i] for column in columns], expand_composites=True)
        for i in range(len(batches))
    ]
