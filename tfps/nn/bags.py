"""Bags: ids that are looked up together and pooled into one row, as sparse, ragged and dense tensors hold them."""

import dataclasses
from typing import TypeAlias

import tensorflow as tf

from tfps.ops.combine_rows import Pooling

Ids: TypeAlias = tf.Tensor | tf.SparseTensor | tf.RaggedTensor
"""Ids, or their weights, as users pass them: the last dimension of a tensor is a bag."""


@dataclasses.dataclass(frozen=True, eq=False)
class Bags:
    """The ids of all bags, one after the other.

    Args:
        ids: int32 or int64, [n].
        bag: int64, [n], ascending: the bag of each id.
        weights: float, [n], or None.
        count: number of bags, a scalar; some of them may be empty.
    """

    ids: tf.Tensor
    bag: tf.Tensor
    weights: tf.Tensor | None
    count: tf.Tensor

    def select(self, keep: tf.Tensor) -> "Bags":
        """The bags without the ids for which `keep`, bool [n], is False."""
        weights = None if self.weights is None else tf.boolean_mask(self.weights, keep)
        return Bags(tf.boolean_mask(self.ids, keep), tf.boolean_mask(self.bag, keep), weights, self.count)

    def fill_empty(self, default_id: tf.Tensor | int) -> "Bags":
        """The bags with `default_id`, of weight 1, in each that was empty."""
        bag, ids = self._fill_empty(self.ids, default_id)
        return Bags(ids, bag, None if self.weights is None else self._fill_empty(self.weights, 1)[1], self.count)

    def _fill_empty(self, values: tf.Tensor, default: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
        """The bag of each value, and the values, with the default in each bag that was empty."""
        filled = tf.raw_ops.RaggedFillEmptyRows(
            value_rowids=self.bag,
            values=values,
            nrows=tf.maximum(self.count, 1),  # for no bags the operation returns rowids of two dimensions
            default_value=tf.cast(default, values.dtype),
        )
        # Where there is no bag at all, the one that was asked for above is dropped again.
        end = tf.where(self.count > 0, tf.size(filled.output_values), 0)
        return filled.output_value_rowids[:end], filled.output_values[:end]

    def without_empty_end(self) -> "Bags":
        """The bags up to the last that is not empty; `tf.nn.embedding_lookup_sparse` leaves the others out."""
        # The sum is over one number, or over none where there is no id at all: then the count is 0.
        return dataclasses.replace(self, count=tf.reduce_sum(self.bag[-1:] + 1))

    def pooling(self, combiner: str) -> Pooling:
        """How to pool the rows of the ids."""
        return Pooling(self.bag, self.count, combiner, self.weights)


def bags_of(ids: Ids, weights: Ids | None, name: str = "ids") -> Bags:
    """The bags of a sparse or ragged tensor: ids that have all indices but the last in common.

    Args:
        ids: `tf.SparseTensor` of any rank, in row-major order, or `tf.RaggedTensor` [bags, None].
        weights: the same kind of tensor with the same places, or None.
        name: what the caller calls `ids`, for messages.

    Raises:
        TypeError: `ids` or `weights` are of another kind.
        ValueError: they differ in size, or a ragged tensor has more than two dimensions.
    """
    if not isinstance(ids, (tf.SparseTensor, tf.RaggedTensor)):
        raise TypeError(
            f"`{name}` must be sparse or ragged. Received: {type(ids).__name__}. Valid: SparseTensor, RaggedTensor."
        )
    check_weights(ids, weights, name)
    return _bags_of_sparse(ids, weights) if isinstance(ids, tf.SparseTensor) else _bags_of_ragged(ids, weights, name)


def check_weights(ids: Ids, weights: Ids | None, name: str) -> None:
    """Checks that weights are None or of the kind and shape of the ids, which the caller calls `name`.

    Raises:
        TypeError: they are of another kind.
        ValueError: they are of another shape.
    """
    if weights is None:
        return
    if any(isinstance(weights, kind) != isinstance(ids, kind) for kind in (tf.SparseTensor, tf.RaggedTensor)):
        raise TypeError(f"weights must be None or of the kind of `{name}`. Received: {type(weights).__name__}.")
    if not weights.shape.is_compatible_with(ids.shape):
        raise ValueError(f"weights must have the shape of `{name}`. Received: {weights.shape}. Valid: {ids.shape}.")


def bags_of_dense(ids: tf.Tensor, weights: tf.Tensor | None) -> Bags:
    """The bags of a tensor, [..., ids of a bag]; weights are None or of its shape."""
    shape = tf.shape(ids, tf.int64)
    count = tf.reduce_prod(shape[:-1])
    flat = None if weights is None else tf.reshape(weights, [-1])
    return Bags(tf.reshape(ids, [-1]), tf.repeat(tf.range(count), shape[-1]), flat, count)


def shape_like(ids: Ids, pooled: tf.Tensor) -> tf.Tensor:
    """Gives pooled rows, [bags, dim], the shape of the ids with `dim` in place of the last dimension."""
    shaped = pooled
    if not isinstance(ids, tf.RaggedTensor):
        shape = ids.dense_shape if isinstance(ids, tf.SparseTensor) else tf.shape(ids, tf.int64)
        shaped = tf.reshape(pooled, tf.concat([shape[:-1], tf.shape(pooled, tf.int64)[1:]], 0))
    shaped.set_shape(ids.shape[:-1].concatenate(pooled.shape[1:]))
    return shaped


def _bags_of_sparse(ids: tf.SparseTensor, weights: tf.SparseTensor | None) -> Bags:
    """Bags are numbered row by row: index (1, 2, 7) of shape [3, 4, 9] is in bag 1 * 4 + 2."""
    sizes = ids.dense_shape[:-1]
    strides = tf.math.cumprod(sizes, exclusive=True, reverse=True)
    bag = tf.reduce_sum(ids.indices[:, :-1] * strides, axis=1)
    return Bags(ids.values, bag, None if weights is None else weights.values, tf.reduce_prod(sizes))


def _bags_of_ragged(ids: tf.RaggedTensor, weights: tf.RaggedTensor | None, name: str) -> Bags:
    if ids.ragged_rank != 1 or ids.flat_values.shape.rank != 1:
        raise ValueError(f"`{name}` must have two dimensions if it is ragged. Received: shape {ids.shape}.")
    bag, count = tf.cast(ids.value_rowids(), tf.int64), tf.cast(ids.nrows(), tf.int64)
    return Bags(ids.flat_values, bag, None if weights is None else weights.flat_values, count)
