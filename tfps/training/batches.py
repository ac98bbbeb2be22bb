"""Batches inside a closure: read one after the other, or all of a window kept as tensors that loops write and read."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def next_unless(last: Any, next_batch: Callable[[], Any], batch: Any) -> Any:
    """The next batch of the input as a `tf.experimental.Optional`; an empty one, and nothing read, after the last.

    Args:
        last: bool scalar, whether `batch` is the last one wanted.
        next_batch: reads one.
        batch: the one before, an Optional.
    """
    return tf.cond(last, lambda: tf.experimental.Optional.empty(batch.element_spec), next_batch)


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
