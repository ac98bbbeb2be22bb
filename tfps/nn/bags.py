"""Bags: ids that are looked up together and pooled into one row, as sparse and ragged tensors hold them."""

import dataclasses
from typing import Any

import tensorflow as tf

from tfps.nn.combiners import combine


@dataclasses.dataclass(frozen=True, eq=False)
class Bags:
    """The ids of all bags, one after the other.

    Args:
        ids: int32 or int64, [n].
        bag: int64, [n], ascending: the bag of each id.
        weights: float, [n], or None.
        count: number of bags, a scalar; some of them may be empty.
    """

    ids: Any
    bag: Any
    weights: Any
    count: Any

    def kept(self, keep: Any) -> "Bags":
        """Without the ids for which `keep`, bool [n], is False."""
        weights = None if self.weights is None else tf.boolean_mask(self.weights, keep)
        return Bags(tf.boolean_mask(self.ids, keep), tf.boolean_mask(self.bag, keep), weights, self.count)

    def filled(self, default_id: Any) -> "Bags":
        """With `default_id`, of weight 1, in each bag that was empty."""
        bag, ids = self._filled(self.ids, default_id)
        return Bags(ids, bag, None if self.weights is None else self._filled(self.weights, 1)[1], self.count)

    def _filled(self, values: Any, default: Any) -> tuple[Any, Any]:
        filled = tf.raw_ops.RaggedFillEmptyRows(
            value_rowids=self.bag, values=values, nrows=self.count, default_value=tf.cast(default, values.dtype)
        )
        return filled.output_value_rowids, filled.output_values

    def pool(self, rows: Any, combiner: str) -> Any:
        """One row a bag up to the last that is not empty, as `tf.nn.embedding_lookup_sparse` gives.

        Args:
            rows: of the ids, [n, dim].
            combiner: "mean", "sqrtn" or "sum".

        Returns:
            [bags, dim]; 0 for an empty bag.
        """
        return combine(rows, self.weights, combiner, lambda values: tf.math.segment_sum(values, self.bag))

    def pool_all(self, rows: Any, combiner: str) -> Any:
        """The same for all bags, [count, dim]."""
        pooled = self.pool(rows, combiner)
        return tf.pad(pooled, [[0, self.count - tf.shape(pooled, tf.int64)[0]], [0, 0]])


def bags_of(ids: Any, weights: Any, name: str = "ids") -> Bags:
    """The bags of a sparse or ragged tensor: what shares all indices but the last.

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
    if weights is not None and isinstance(weights, tf.SparseTensor) != isinstance(ids, tf.SparseTensor):
        raise TypeError(f"weights must be None or of the kind of `{name}`. Received: {type(weights).__name__}.")
    if weights is not None and not weights.shape.is_compatible_with(ids.shape):
        raise ValueError(f"weights must have the shape of `{name}`. Received: {weights.shape}. Valid: {ids.shape}.")
    return _of_sparse(ids, weights) if isinstance(ids, tf.SparseTensor) else _of_ragged(ids, weights, name)


def in_shape_of(ids: Any, pooled: Any) -> Any:
    """Pooled rows, [bags, dim], in the shape of sparse or ragged ids without the last dimension."""
    shaped = pooled
    if isinstance(ids, tf.SparseTensor):
        shaped = tf.reshape(pooled, tf.concat([ids.dense_shape[:-1], tf.shape(pooled, tf.int64)[1:]], 0))
    shaped.set_shape(ids.shape[:-1].concatenate(pooled.shape[1:]))
    return shaped


def _of_sparse(ids: Any, weights: Any) -> Bags:
    """Bags are counted row by row: index (1, 2, 7) of shape [3, 4, 9] is in bag 1 * 4 + 2."""
    sizes = ids.dense_shape[:-1]
    strides = tf.math.cumprod(sizes, exclusive=True, reverse=True)
    bag = tf.reduce_sum(ids.indices[:, :-1] * strides, axis=1)
    return Bags(ids.values, bag, None if weights is None else weights.values, tf.reduce_prod(sizes))


def _of_ragged(ids: Any, weights: Any, name: str) -> Bags:
    if ids.ragged_rank != 1 or ids.flat_values.shape.rank != 1:
        raise ValueError(f"`{name}` must have two dimensions if it is ragged. Received: shape {ids.shape}.")
    bag, count = tf.cast(ids.value_rowids(), tf.int64), tf.cast(ids.nrows(), tf.int64)
    return Bags(ids.flat_values, bag, None if weights is None else weights.flat_values, count)
