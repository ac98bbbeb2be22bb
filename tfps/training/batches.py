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
        return next_or_again(self._name, self._spec, self.next, again)


def where_there(there: Any, take: Callable[[], Any], nothing: Any) -> Any:
    """What `take` gives where `there` holds, else `nothing`: tensors of the same kinds, whose sizes may differ.

    It is a loop of one turn. A branch of TensorFlow's cannot capture what is another for each worker, as is the hash
    table of a lookup layer; a loop can.
    """
    shapes = tf.nest.map_structure(lambda tensor: tf.TensorShape([None] * tensor.shape.rank), nothing)
    _, found = tf.while_loop(
        lambda there, _: there,
        lambda *_: (False, take()),
        (there, nothing),
        shape_invariants=(tf.TensorShape([]), shapes),
    )
    return found


def next_unless(last: Any, next_batch: Callable[[], Any], batch: Any) -> Any:
    """The next batch of the input as a `tf.experimental.Optional`; an empty one, and nothing read, after the last.

    Args:
        last: bool scalar, whether `batch` is the last one wanted.
        next_batch: reads one.
        batch: the one before, an Optional.
    """
    return tf.cond(last, lambda: tf.experimental.Optional.empty(batch.element_spec), next_batch)


def next_or_again(name: str, element_spec: Any, next_batch: Callable[[], Any], again: Any) -> Any:
    """The next batch of the input, or the one that this gave last; an Optional either way.

    Args:
        name: of the input, on the worker.
        element_spec: of a batch.
        next_batch: reads one as a `tf.experimental.Optional`.
        again: bool scalar, whether the last one is wanted.
    """
    whole = tf.nest.flatten(element_spec, expand_composites=True)
    leaves = [leaf for leaf in whole if hasattr(leaf, "dtype")]
    handles = [
        tf.raw_ops.VarHandleOp(dtype=leaf.dtype, shape=leaf.shape, shared_name=f"tfps_batch_{name}_{number}")
        for number, leaf in enumerate(leaves)
    ]

    def last() -> Any:
        values = iter(
            tf.raw_ops.ReadVariableOp(resource=handle, dtype=leaf.dtype)
            for handle, leaf in zip(handles, leaves, strict=True)
        )
        filled = [next(values) if hasattr(leaf, "dtype") else tf.experimental.Optional.empty(None) for leaf in whole]
        return tf.experimental.Optional.from_value(
            tf.nest.pack_sequence_as(element_spec, filled, expand_composites=True)
        )

    def keep(batch: Any) -> Any:
        tensors = tf.nest.flatten(batch, expand_composites=True)
        given = [tensor for tensor, leaf in zip(tensors, whole, strict=True) if hasattr(leaf, "dtype")]
        for handle, tensor in zip(handles, given, strict=True):
            tf.raw_ops.AssignVariableOp(resource=handle, value=tensor)
        return tf.constant(0)

    def following() -> Any:
        batch = next_batch()
        tf.cond(batch.has_value(), lambda: keep(batch.get_value()), lambda: tf.constant(0))
        return batch

    return tf.cond(again, last, following)


class Batches:
    """The batches of a window as tensors that a loop can write and read.

    Args:
        spec: of a batch.
        arrays: those of an earlier turn of the loop; new ones where None.
    """

    def __init__(self, spec: Any, arrays: Sequence[Any] | None = None) -> None:
        self._spec = spec
        self._leaves = [leaf for leaf in tf.nest.flatten(spec, expand_composites=True) if hasattr(leaf, "dtype")]
        self.arrays = (
            [growing_array(leaf.dtype, leaf.shape) for leaf in self._leaves] if arrays is None else list(arrays)
        )

    def with_batch(self, number: Any, batch: Any) -> "Batches":
        """These and one more."""
        leaves = [leaf for leaf in tf.nest.flatten(batch, expand_composites=True) if leaf is not None]
        return Batches(self._spec, [a.write(number, leaf) for a, leaf in zip(self.arrays, leaves, strict=True)])

    def batch(self, number: Any) -> Any:
        """One of them."""
        values = iter(
            tf.ensure_shape(array.read(number), leaf.shape)
            for array, leaf in zip(self.arrays, self._leaves, strict=True)
        )
        whole = tf.nest.flatten(self._spec, expand_composites=True)
        filled = [next(values) if hasattr(leaf, "dtype") else None for leaf in whole]
        return tf.nest.pack_sequence_as(self._spec, filled, expand_composites=True)

    def joined(self) -> Any:
        """All of them as one, their tensors one after the other along the first dimension, which each must have."""
        values = iter([array.concat() for array in self.arrays])
        whole = tf.nest.flatten(self._spec, expand_composites=True)
        filled = [next(values) if hasattr(leaf, "dtype") else None for leaf in whole]
        return tf.nest.pack_sequence_as(self._spec, filled, expand_composites=True)


def growing_array(dtype: Any, shape: Any) -> Any:
    """Tensors of one type and of shapes that fit `shape`, written one by one and read any number of times."""
    return tf.TensorArray(dtype, 0, dynamic_size=True, infer_shape=False, element_shape=shape, clear_after_read=False)


def one_by_one(batches: Sequence[Any]) -> Callable[[], Any]:
    """Gives batches of one shape as a worker's iterator would.

    Returns:
        A function; the graph of each call takes the next batch, as an Optional, which is empty after the last.
    """
    spec = tf.nest.map_structure(tf.type_spec_from_value, batches[0])
    kept = Batches(spec)
    for number, batch in enumerate(batches):
        kept = kept.with_batch(number, batch)
    taken = tf.raw_ops.VarHandleOp(dtype=tf.int32, shape=[], shared_name="tfps_batches_taken")
    tf.raw_ops.AssignVariableOp(resource=taken, value=0)

    def next_batch() -> Any:
        number = tf.raw_ops.ReadVariableOp(resource=taken, dtype=tf.int32)
        tf.raw_ops.AssignVariableOp(resource=taken, value=number + 1)
        return tf.cond(
            number < len(batches),
            lambda: tf.experimental.Optional.from_value(kept.batch(number)),
            lambda: tf.experimental.Optional.empty(spec),
        )

    return next_batch


def of_one_shape(batches: Sequence[Any]) -> list[Any]:
    """Batches whose tensors forget the sizes in which they differ, such as that of an epoch's last."""

    def forget(*leaves: Any) -> list[Any]:
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
