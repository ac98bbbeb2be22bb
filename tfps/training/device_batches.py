"""Divides a batch between the devices of a worker.

The examples of a batch are the rows of its labels, or of its features without labels. Each device gets as many of them
as another, or one less. Tensors with another number of rows, such as a table of all items, go to every device whole.
"""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfps.types import Nest


@dataclasses.dataclass(frozen=True, eq=False)
class Shares:
    """A batch, divided between devices.

    Example: a batch of 5 examples has 3 of them on the first of two devices and 2 on the second. A batch of 1 has it on
    both, but the second device has `examples` and `weights` of 0: nothing that it computes counts.

    Args:
        batches: the batch of each device; none is empty, unless the whole batch is.
        examples: for each device the number of examples that count, a float32 scalar.
        weights: for each device its fraction of the examples, a float32 scalar.
        counts: for each device whether anything that it computes counts, a bool scalar.
    """

    batches: Sequence[Nest]
    examples: Sequence[tf.Tensor]
    weights: Sequence[tf.Tensor]
    counts: Sequence[tf.Tensor]


def divide(batch: Nest, devices: int) -> Shares:
    """Divides a batch between devices."""
    if devices == 1:
        return Shares([batch], [tf.ones([])], [tf.ones([])], [tf.constant(True)])
    total = count_examples(batch)
    # Rounded up, so that the first devices have one example more: ends of 3 and 5 for 5 examples on two devices.
    ends = [(total * number + devices - 1) // devices for number in range(devices + 1)]
    examples = [end - begin for begin, end in zip(ends, ends[1:], strict=False)]
    # A layer may fail on a batch without examples, and its mean loss is no number. So such a device gets the last one.
    begins = [tf.minimum(begin, tf.maximum(total - 1, 0)) for begin in ends[:-1]]
    stops = [tf.maximum(end, begin + 1) for begin, end in zip(begins, ends[1:], strict=True)]
    batches = [_slice(batch, total, begin, stop, devices) for begin, stop in zip(begins, stops, strict=True)]
    floats = [tf.cast(one, tf.float32) for one in examples]
    # A batch without any examples counts on the first device, as it does on a single one.
    is_empty = tf.equal(total, 0)
    first = [tf.constant(float(number == 0)) for number in range(devices)]
    weights = [
        tf.where(is_empty, alone, tf.math.divide_no_nan(one, tf.cast(total, tf.float32)))
        for one, alone in zip(floats, first, strict=True)
    ]
    return Shares(batches, floats, weights, [weight > 0.0 for weight in weights])


def share_spec(spec: Nest, devices: int) -> Nest:
    """Returns the spec of the batch of one device; other leaves than tensors and specs stay what they are.

    Args:
        spec: tensors or their specs, in the structure of a batch.
        devices: the number of devices.
    """
    if devices == 1:
        return spec
    total = _static_examples(spec)
    return tf.nest.map_structure(lambda leaf: _leaf_spec(leaf, total, devices), spec)


def count_examples(batch: Nest) -> tf.Tensor:
    """Counts the examples of a batch, an int32 scalar: the rows of its labels, or of its features without labels."""
    first = _counted(batch)
    if first is None:
        # Scalars alone are one example.
        return tf.constant(1)
    return _rows(first)


def _counted(batch: Nest) -> Nest:
    """Returns the tensor of a batch, or the spec, whose rows are its examples; None if it has scalars alone."""
    parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    features = [leaf for leaf in tf.nest.flatten(parts[:1]) if _has_rows(leaf)]
    # Labels come first: a feature may be a matrix of something else, such as a table of all items.
    labels = [leaf for leaf in tf.nest.flatten(parts[1:2]) if _has_rows(leaf)]
    plain = [leaf for leaf in features if isinstance(leaf, tf.Tensor | tf.TensorSpec)]
    return next(iter([*labels, *plain, *features]), None)


def _has_rows(leaf: object) -> bool:
    kinds = (tf.Tensor, tf.RaggedTensor, tf.SparseTensor, tf.TensorSpec, tf.RaggedTensorSpec, tf.SparseTensorSpec)
    return isinstance(leaf, kinds) and leaf.shape.rank != 0


def _static_examples(spec: Nest) -> int | None:
    first = _counted(spec)
    return None if first is None or first.shape.rank is None else first.shape[0]


def _rows(leaf: Nest) -> tf.Tensor:
    if isinstance(leaf, tf.RaggedTensor):
        return tf.cast(leaf.nrows(), tf.int32)
    return tf.cast(leaf.dense_shape[0], tf.int32) if isinstance(leaf, tf.SparseTensor) else tf.shape(leaf)[0]


def _slice(batch: Nest, total: tf.Tensor, begin: tf.Tensor, stop: tf.Tensor, devices: int) -> Nest:
    """Takes some examples of a batch."""
    known = _static_examples(batch)

    def take(leaf: Nest) -> Nest:
        if not _has_rows(leaf) or _is_shared(leaf, known):
            return leaf
        rows = _rows(leaf)
        is_divided = tf.equal(rows, total)
        first, last = tf.where(is_divided, begin, 0), tf.where(is_divided, stop, rows)
        if isinstance(leaf, tf.SparseTensor):
            start = tf.pad(tf.cast([first], tf.int64), [[0, tf.size(leaf.dense_shape) - 1]])
            size = tf.concat([tf.cast([last - first], tf.int64), leaf.dense_shape[1:]], 0)
            return tf.sparse.slice(leaf, start, size)
        taken = leaf[first:last]
        if isinstance(leaf, tf.Tensor):
            taken.set_shape(_leaf_spec(leaf, known, devices).shape)
        return taken

    return tf.nest.map_structure(take, batch)


def _leaf_spec(leaf: Nest, total: int | None, devices: int) -> Nest:
    """Returns the spec of one tensor on a device."""
    if not _has_rows(leaf) or _is_shared(leaf, total):
        return leaf
    if isinstance(leaf, tf.Tensor | tf.TensorSpec):
        if leaf.shape.rank is None:
            return tf.TensorSpec(None, leaf.dtype)
        return tf.TensorSpec([_share(leaf.shape[0], devices), *leaf.shape[1:]], leaf.dtype)
    spec = leaf if isinstance(leaf, tf.TypeSpec) else tf.type_spec_from_value(leaf)
    shape = spec.shape if spec.shape.rank is None else tf.TensorShape([None, *spec.shape[1:]])
    if isinstance(spec, tf.RaggedTensorSpec):
        return tf.RaggedTensorSpec(shape, spec.dtype, spec.ragged_rank, spec.row_splits_dtype)
    return tf.SparseTensorSpec(shape, spec.dtype)


def _is_shared(leaf: Nest, total: int | None) -> bool:
    """Whether a tensor is known to have another number of rows than the batch has examples."""
    rows = None if leaf.shape.rank is None else leaf.shape[0]
    return total is not None and rows is not None and rows != total


def _share(rows: int | None, devices: int) -> int | None:
    """Returns the number of rows on each device, if it is known and the same on all."""
    return rows // devices if rows and rows % devices == 0 else None
