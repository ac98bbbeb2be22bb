"""Combines the rows of each bag into one, forward and backward, without copying a row for each id."""

import dataclasses
from types import ModuleType
from typing import Any

import tensorflow as tf

from tfps.checks import check_choice
from tfps.ops import combine_rows_graph as graph
from tfps.ops import library
from tfps.ops.graph_gradient import with_gradient

COMBINERS = ("mean", "sqrtn", "sum")


def check_combiner(combiner: object) -> None:
    """Raises `ConfigError`, a `ValueError`, unless `combiner` is the name of one."""
    check_choice("combiner", combiner, COMBINERS)


@dataclasses.dataclass(frozen=True, eq=False)
class Pooling:
    """Says which elements make up each bag, and how their rows are combined.

    With the weights w and the rows r of a bag: "sum" is sum(w * r), "mean" divides it by sum(w), "sqrtn" divides it by
    sqrt(sum(w * w)). A bag without elements, or with a divisor of 0, gives zeros and gets no gradient. (For such a bag
    the gradient of `tf.nn.embedding_lookup_sparse` for the weights of "sqrtn" is NaN.)

    Args:
        segments: int64, [n], ascending: the bag of each element, at least 0 and below `count`.
        count: number of bags, a scalar; some of them may be empty.
        combiner: one of `COMBINERS`.
        weights: float, [n], or None where all weights are 1.

    Raises:
        ConfigError: `combiner` is no combiner.
    """

    segments: tf.Tensor
    count: tf.Tensor
    combiner: str
    weights: tf.Tensor | None = None

    def __post_init__(self) -> None:
        """Checks the combiner. The ops check the contents of the tensors when they run."""
        check_combiner(self.combiner)


def combine_rows(rows: tf.Tensor, places: tf.Tensor, pooling: Pooling) -> tf.Tensor:
    """Combines rows bag by bag; rows and weights get gradients.

    Args:
        rows: float, [M, dim]. Types other than float32 use TensorFlow's own ops.
        places: int32, [n]: the row of each element, at least 0 and below M.
        pooling: the bags of the elements.

    Returns:
        [bags, dim], of the dtype of `rows`. The gradient for `rows` is a dense tensor, [M, dim]; each element is added
        to its row as it is computed.

    Raises:
        ConfigError: `pooling.combiner` is no combiner.
        tf.errors.InvalidArgumentError: the tensors break the rules above.
    """
    rows, places = tf.convert_to_tensor(rows), tf.convert_to_tensor(places)
    pooling = weighed_as(pooling, rows.dtype)

    def backward(upstream: tf.Tensor) -> list[tf.Tensor]:
        # The gradient may come as IndexedSlices.
        upstream = tf.convert_to_tensor(upstream)
        gradients = [combine_rows_gradient(upstream, places, pooling, tf.shape(rows, tf.int64)[0])]
        if pooling.weights is not None:
            gradients.append(combine_weights_gradient(upstream, rows, places, pooling))
        return gradients

    inputs = [rows, *([] if pooling.weights is None else [pooling.weights])]
    return with_gradient(combined(rows, places, pooling), inputs, backward)


def weighed_as(pooling: Pooling, dtype: tf.DType) -> Pooling:
    """Returns the pooling with its weights as a tensor of the dtype of the rows."""
    if pooling.weights is None:
        return pooling
    return dataclasses.replace(pooling, weights=tf.cast(pooling.weights, dtype))


def combined(rows: tf.Tensor, places: tf.Tensor, pooling: Pooling) -> tf.Tensor:
    """Computes `combine_rows` without a gradient; `pooling` comes from `weighed_as`."""
    ops = _ops_for(rows)
    if ops is None:
        return graph.combined(rows, places, pooling)
    return ops.tfps_combine_rows(
        rows=rows, places=places, num_segments=tf.cast(pooling.count, tf.int64), **_common(pooling)
    )


def combine_rows_gradient(upstream: tf.Tensor, places: tf.Tensor, pooling: Pooling, num_rows: tf.Tensor) -> tf.Tensor:
    """Computes the gradient of `combine_rows` for its rows.

    Args:
        upstream: float, [bags, dim], the gradient for the result of `combine_rows`.
        places: the argument of `combine_rows`.
        pooling: the argument of `combine_rows`, with weights of the dtype of `upstream`.
        num_rows: M, a scalar.

    Returns:
        [num_rows, dim]: for each row the sum over its elements; 0 for a row without elements.
    """
    ops = _ops_for(upstream)
    if ops is None:
        return graph.rows_gradient(upstream, places, pooling, num_rows)
    return ops.tfps_combine_rows_grad(
        gradients=upstream, places=places, num_rows=tf.cast(num_rows, tf.int64), **_common(pooling)
    )


def combine_weights_gradient(upstream: tf.Tensor, rows: tf.Tensor, places: tf.Tensor, pooling: Pooling) -> tf.Tensor:
    """Computes the gradient of `combine_rows` for its weights, [n]; see `combine_rows_gradient` for arguments."""
    ops = _ops_for(upstream)
    if ops is None:
        return graph.weights_gradient(upstream, rows, places, pooling)
    return ops.tfps_combine_weights_grad(
        gradients=upstream,
        rows=rows,
        places=places,
        segments=pooling.segments,
        weights=pooling.weights,
        combiner=pooling.combiner,
    )


def _ops_for(values: tf.Tensor) -> ModuleType | None:
    return library.load() if values.dtype == tf.float32 else None


def _common(pooling: Pooling) -> dict[str, Any]:
    weights = [] if pooling.weights is None else [pooling.weights]
    return {"segments": pooling.segments, "weights": weights, "combiner": pooling.combiner}
