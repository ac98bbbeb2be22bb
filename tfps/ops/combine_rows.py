"""Combines the rows of each bag into one row, forward and backward, without a copy of a row for each id."""

import dataclasses
from types import ModuleType
from typing import Any

import tensorflow as tf

from tfps import step
from tfps.checks import check_choice
from tfps.ops import combine_rows_graph as graph
from tfps.ops import library
from tfps.ops.graph_gradient import with_gradient

COMBINERS = ("mean", "sqrtn", "sum")


def check_combiner(combiner: object) -> None:
    """Raises `ConfigError`, a `ValueError`, unless `combiner` is one of `COMBINERS`."""
    check_choice("combiner", combiner, COMBINERS)


@dataclasses.dataclass(frozen=True, eq=False)
class Pooling:
    """The elements of each bag and the way to combine their rows.

    With the weights w and the rows r of a bag, "sum" is sum(w * r), "mean" divides it by sum(w), and "sqrtn" divides it
    by sqrt(sum(w * w)). A bag without elements, or with a divisor of 0, gives zeros and gets no gradient. (For such a
    bag the gradient of `tf.nn.embedding_lookup_sparse` for the weights of "sqrtn" is NaN.)

    Args:
        segments: the bag of each element, int64, [n], ascending, at least 0 and below `count`.
        count: the number of bags, a scalar; bags may be empty.
        combiner: one of `COMBINERS`.
        weights: the weight of each element, float, [n]; None if all weights are 1.

    Raises:
        ConfigError: `combiner` is not one of `COMBINERS`.
    """

    segments: tf.Tensor
    count: tf.Tensor
    combiner: str
    weights: tf.Tensor | None = None

    def __post_init__(self) -> None:
        """Checks the combiner. The ops check the contents of the tensors when they run."""
        check_combiner(self.combiner)


def combine_rows(rows: tf.Tensor, places: tf.Tensor, pooling: Pooling) -> tf.Tensor:
    """Combines rows bag by bag. Both rows and weights get gradients.

    Args:
        rows: the rows to combine, float, [M, dim]. Types other than float32 use TensorFlow's own ops.
        places: the row of each element, int32, [n], at least 0 and below M.
        pooling: the bags of the elements.

    Returns:
        The combined row of each bag, [bags, dim], of the dtype of `rows`. The gradient for `rows` is a dense tensor,
        [M, dim], to which each element is added as it is computed.

    Raises:
        tf.errors.InvalidArgumentError: the tensors break the rules above.
    """
    rows, places = tf.convert_to_tensor(rows), tf.convert_to_tensor(places)
    pooling = cast_weights(pooling, rows.dtype)

    def backward(upstream: tf.Tensor) -> list[tf.Tensor]:
        # The gradient may arrive as IndexedSlices.
        upstream = tf.convert_to_tensor(upstream)
        gradients = [combine_rows_gradient(upstream, places, pooling, tf.shape(rows, tf.int64)[0])]
        if pooling.weights is not None:
            gradients.append(combine_weights_gradient(upstream, rows, places, pooling))
        return gradients

    inputs = [rows, *([] if pooling.weights is None else [pooling.weights])]
    # `combine` itself has no gradient: a lookup calls it, too, and gives the result another one.
    return with_gradient(combine(rows, places, pooling), inputs, backward)


def cast_weights(pooling: Pooling, dtype: tf.DType) -> Pooling:
    """Returns the pooling with its weights as a tensor of the dtype of the rows."""
    if pooling.weights is None:
        return pooling
    return dataclasses.replace(pooling, weights=tf.cast(pooling.weights, dtype))


def combine(rows: tf.Tensor, places: tf.Tensor, pooling: Pooling) -> tf.Tensor:
    """Computes `combine_rows` without a gradient; `pooling` comes from `cast_weights`."""
    ops = _ops_for(rows)
    if ops is None:
        return graph.combine(rows, places, pooling)
    with step.on_host():
        return ops.tfps_combine_rows(
            rows=rows, places=places, num_segments=tf.cast(pooling.count, tf.int64), **_op_arguments(pooling)
        )


def combine_rows_gradient(upstream: tf.Tensor, places: tf.Tensor, pooling: Pooling, num_rows: tf.Tensor) -> tf.Tensor:
    """Computes the gradient of `combine_rows` for its rows.

    Args:
        upstream: the gradient for the result of `combine_rows`, float, [bags, dim].
        places: as for `combine_rows`.
        pooling: as for `combine_rows`, with weights of the dtype of `upstream`.
        num_rows: M, a scalar.

    Returns:
        [num_rows, dim]: the sum over the elements of each row, 0 for a row without elements.
    """
    ops = _ops_for(upstream)
    if ops is None:
        return graph.rows_gradient(upstream, places, pooling, num_rows)
    with step.on_host():
        return ops.tfps_combine_rows_grad(
            gradients=upstream, places=places, num_rows=tf.cast(num_rows, tf.int64), **_op_arguments(pooling)
        )


def element_gradients(upstream: tf.Tensor, pooling: Pooling) -> tf.Tensor:
    """Computes the gradient of `combine_rows` for the row of each element, [n, dim], not summed by row.

    Args:
        upstream: as for `combine_rows_gradient`.
        pooling: as for `combine_rows_gradient`.
    """
    return graph.element_gradients(upstream, pooling)


def combine_weights_gradient(upstream: tf.Tensor, rows: tf.Tensor, places: tf.Tensor, pooling: Pooling) -> tf.Tensor:
    """Computes the gradient of `combine_rows` for its weights, [n]; arguments as for `combine_rows_gradient`."""
    ops = _ops_for(upstream)
    if ops is None:
        return graph.weights_gradient(upstream, rows, places, pooling)
    with step.on_host():
        return ops.tfps_combine_weights_grad(
            gradients=upstream,
            rows=rows,
            places=places,
            segments=pooling.segments,
            weights=pooling.weights,
            combiner=pooling.combiner,
        )


def _ops_for(values: tf.Tensor) -> ModuleType | None:
    # The kernels exist for float32 only, the type of every table.
    return library.load() if values.dtype == tf.float32 else None


def _op_arguments(pooling: Pooling) -> dict[str, Any]:
    # An op has no optional tensor, so the weights are a list of none or one.
    weights = [] if pooling.weights is None else [pooling.weights]
    return {"segments": pooling.segments, "weights": weights, "combiner": pooling.combiner}
