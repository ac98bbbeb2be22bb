"""`Bags`: ids that are looked up together and pooled into one row, from sparse, ragged and dense tensors."""

import dataclasses
from typing import TypeAlias

import tensorflow as tf

from tfps.ops.combine_rows import Pooling

Ids: TypeAlias = tf.Tensor | tf.SparseTensor | tf.RaggedTensor
"""Ids, or their weights, in the forms that users pass. The last dimension of a tensor is a bag."""


@dataclasses.dataclass(frozen=True, eq=False)
class Bags:
    """The ids of all bags, one bag after the other.

    Example: the bags [5, 7], [] and [5] have ids [5, 7, 5], bag [0, 0, 2] and count 3.

    Args:
        ids: the ids, int32 or int64 [n].
        bag: the bag of each id, int64 [n] ascending.
        weights: the weight of each id, float [n]; None if all weights are 1.
        count: the number of bags, a scalar; some bags may be empty.
    """

    ids: tf.Tensor
    bag: tf.Tensor
    weights: tf.Tensor | None
    count: tf.Tensor

    def select(self, keep: tf.Tensor) -> "Bags":
        """Returns the bags with only the ids for which `keep`, bool [n], is True."""
        # The count stays: a bag that loses all its ids becomes an empty bag.
        weights = None if self.weights is None else tf.boolean_mask(self.weights, keep)
        return Bags(tf.boolean_mask(self.ids, keep), tf.boolean_mask(self.bag, keep), weights, self.count)

    def fill_empty(self, default_id: tf.Tensor | int) -> "Bags":
        """Returns the bags with `default_id`, at weight 1, in each empty bag."""
        bag, ids = self._fill_empty(self.ids, default_id)
        return Bags(ids, bag, None if self.weights is None else self._fill_empty(self.weights, 1)[1], self.count)

    def _fill_empty(self, values: tf.Tensor, default: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the bag of each value and the values, with the default in each empty bag."""
        # For 0 bags the operation returns row ids of two dimensions, so it always gets at least one bag.
        filled = tf.raw_ops.RaggedFillEmptyRows(
            value_rowids=self.bag,
            values=values,
            nrows=tf.maximum(self.count, 1),
            default_value=tf.cast(default, values.dtype),
        )
        # If there are no bags, this drops the default of the extra bag again.
        end = tf.where(self.count > 0, tf.size(filled.output_values), 0)
        return filled.output_value_rowids[:end], filled.output_values[:end]

    def without_empty_end(self) -> "Bags":
        """Returns the bags up to the last one that has an id, as `tf.nn.embedding_lookup_sparse` does."""
        # The slice has one number, or none if there are no ids. The sum of none is 0, which is then the right count.
        return dataclasses.replace(self, count=tf.reduce_sum(self.bag[-1:] + 1))

    def pooling(self, combiner: str) -> Pooling:
        """Returns the pooling of these bags by a combiner."""
        return Pooling(self.bag, self.count, combiner, self.weights)


def make_bags(ids: Ids, weights: Ids | None, name: str = "ids") -> Bags:
    """Returns the bags of a sparse or ragged tensor. Ids whose indices differ only in the last one share a bag.

    Args:
        ids: `tf.SparseTensor` of any rank, in row-major order, or `tf.RaggedTensor` [bags, None].
        weights: the same kind of tensor with the same indices; None if all weights are 1.
        name: the caller's name for `ids`, for messages.

    Raises:
        TypeError: `ids` or `weights` are of another kind.
        ValueError: they differ in size, or a ragged tensor has more than two dimensions.
    """
    if not isinstance(ids, (tf.SparseTensor, tf.RaggedTensor)):
        raise TypeError(
            f"`{name}` must be sparse or ragged. Received: {type(ids).__name__}. Valid: SparseTensor, RaggedTensor."
        )
    check_weights(ids, weights, name)
    if isinstance(ids, tf.SparseTensor):
        return _make_sparse_bags(ids, weights)
    return _make_ragged_bags(ids, weights, name)


def check_weights(ids: Ids, weights: Ids | None, name: str) -> None:
    """Checks that weights are None or have the type and shape of the ids.

    Args:
        ids: the ids.
        weights: the weights.
        name: the caller's name for `ids`, for messages.

    Raises:
        TypeError: the weights have another type.
        ValueError: the weights have another shape.
    """
    if weights is None:
        return
    if any(isinstance(weights, kind) != isinstance(ids, kind) for kind in (tf.SparseTensor, tf.RaggedTensor)):
        raise TypeError(
            f"weights must be None or of the type of `{name}`. "
            f"Received: {type(weights).__name__}. Valid: {type(ids).__name__}."
        )
    if not weights.shape.is_compatible_with(ids.shape):
        raise ValueError(f"weights must have the shape of `{name}`. Received: {weights.shape}. Valid: {ids.shape}.")


def make_dense_bags(ids: tf.Tensor, weights: tf.Tensor | None) -> Bags:
    """Returns the bags of a dense tensor, [..., ids of a bag]; weights are None or have its shape."""
    shape = tf.shape(ids, tf.int64)
    count = tf.reduce_prod(shape[:-1])
    flat = None if weights is None else tf.reshape(weights, [-1])
    return Bags(tf.reshape(ids, [-1]), tf.repeat(tf.range(count), shape[-1]), flat, count)


def shape_like(ids: Ids, pooled: tf.Tensor) -> tf.Tensor:
    """Reshapes pooled rows, [bags, dim], to `ids.shape[:-1] + [dim]`."""
    shaped = pooled
    # Ragged ids have the shape [bags, None], so their pooled rows are in shape already.
    if not isinstance(ids, tf.RaggedTensor):
        shape = ids.dense_shape if isinstance(ids, tf.SparseTensor) else tf.shape(ids, tf.int64)
        shaped = tf.reshape(pooled, tf.concat([shape[:-1], tf.shape(pooled, tf.int64)[1:]], 0))
    # The reshape loses dimensions that are known while the graph is traced; Keras layers after this one need them.
    shaped.set_shape(ids.shape[:-1].concatenate(pooled.shape[1:]))
    return shaped


def _make_sparse_bags(ids: tf.SparseTensor, weights: tf.SparseTensor | None) -> Bags:
    """Returns the bags of a sparse tensor."""
    # Bags are numbered in row-major order. Example: with shape [3, 4, 9], index (1, 2, 7) is in bag 1 * 4 + 2.
    sizes = ids.dense_shape[:-1]
    strides = tf.math.cumprod(sizes, exclusive=True, reverse=True)
    bag = tf.reduce_sum(ids.indices[:, :-1] * strides, axis=1)
    return Bags(ids.values, bag, None if weights is None else weights.values, tf.reduce_prod(sizes))


def _make_ragged_bags(ids: tf.RaggedTensor, weights: tf.RaggedTensor | None, name: str) -> Bags:
    """Returns the bags of a ragged tensor, which has one bag in each row."""
    if ids.ragged_rank != 1 or ids.flat_values.shape.rank != 1:
        raise ValueError(f"`{name}` must have two dimensions if it is ragged. Received: shape {ids.shape}.")
    # The row splits may be int32, but the C++ ops take int64 alone.
    bag, count = tf.cast(ids.value_rowids(), tf.int64), tf.cast(ids.nrows(), tf.int64)
    return Bags(ids.flat_values, bag, None if weights is None else weights.flat_values, count)
