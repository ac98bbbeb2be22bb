"""Rows of a bag combined into one, forward and backward, without a copy of a row for every place that has it."""

import dataclasses
from typing import Any

import tensorflow as tf

from tfps.checks import check_choice
from tfps.ops import combine_rows_graph as graph
from tfps.ops import library

COMBINERS = ("mean", "sqrtn", "sum")


def check_combiner(combiner: object) -> None:
    """Raises `ConfigError`, a `ValueError`, unless `combiner` is the name of one."""
    check_choice("combiner", combiner, COMBINERS)


@dataclasses.dataclass(frozen=True, eq=False)
class Pooling:
    """Which elements make up a bag, and what becomes of their rows.

    With the weights w and the rows r of a bag: "sum" is sum(w * r), "mean" that over sum(w), "sqrtn" that over
    sqrt(sum(w * w)). A bag without elements, or for which that comes to 0, gives zeros and gets no gradient. (There
    the gradient of `tf.nn.embedding_lookup_sparse` for the weights of "sqrtn" is not a number.)

    Args:
        segments: int64, [n], ascending: the bag of each element, at least 0 and below `count`.
        count: number of bags, a scalar; some of them may be empty.
        combiner: one of `COMBINERS`.
        weights: float, [n], or None for 1 each.

    Raises:
        ConfigError: `combiner` is no combiner.
    """

    segments: Any
    count: Any
    combiner: str
    weights: Any = None

    def __post_init__(self) -> None:
        """Checks the combiner; what is in tensors is checked when they are used."""
        check_combiner(self.combiner)


def combine_rows(rows: Any, places: Any, pooling: Pooling) -> Any:
    """Pools rows bag by bag; rows and weights get gradients.

    Args:
        rows: float, [M, dim]. Any dtype but float32 goes by TensorFlow's own ops.
        places: int32, [n]: the row of each element, at least 0 and below M.
        pooling: the bags of the elements.

    Returns:
        [bags, dim], of the dtype of `rows`. Its gradient for `rows` is a plain tensor, [M, dim], in which each place
        is added to its row at once.

    Raises:
        ConfigError: `pooling.combiner` is no combiner.
        tf.errors.InvalidArgumentError: the tensors break the rules above.
    """
    rows, places = tf.convert_to_tensor(rows), tf.convert_to_tensor(places)
    pooling = weighed_as(pooling, rows.dtype)

    @tf.custom_gradient
    def combine(rows: Any, *_: Any) -> Any:
        def gradient(upstream: Any) -> tuple[Any, ...]:
            upstream = tf.convert_to_tensor(upstream)  # it may be IndexedSlices
            for_rows = combine_rows_gradient(upstream, places, pooling, tf.shape(rows, tf.int64)[0])
            if pooling.weights is None:
                return for_rows
            return for_rows, combine_weights_gradient(upstream, rows, places, pooling)

        return combined(rows, places, pooling), gradient

    return combine(rows, *([] if pooling.weights is None else [pooling.weights]))


def weighed_as(pooling: Pooling, dtype: Any) -> Pooling:
    """The same pooling with weights of the type of the rows, as a tensor."""
    if pooling.weights is None:
        return pooling
    return dataclasses.replace(pooling, weights=tf.cast(pooling.weights, dtype))


def combined(rows: Any, places: Any, pooling: Pooling) -> Any:
    """What `combine_rows` gives, without a gradient; `pooling` as from `weighed_as`."""
    ops = _ops_for(rows)
    if ops is None:
        return graph.combined(rows, places, pooling)
    return ops.tfps_combine_rows(
        rows=rows, places=places, num_segments=tf.cast(pooling.count, tf.int64), **_common(pooling)
    )


def combine_rows_gradient(upstream: Any, places: Any, pooling: Pooling, num_rows: Any) -> Any:
    """The gradient of `combine_rows` for its rows.

    Args:
        upstream: float, [bags, dim], the gradient of what it gave.
        places: as it was given.
        pooling: as it was given, with weights of the dtype of `upstream`.
        num_rows: M, a scalar.

    Returns:
        [num_rows, dim]: for each row what all its elements give; 0 where there is none.
    """
    ops = _ops_for(upstream)
    if ops is None:
        return graph.rows_gradient(upstream, places, pooling, num_rows)
    return ops.tfps_combine_rows_grad(
        gradients=upstream, places=places, num_rows=tf.cast(num_rows, tf.int64), **_common(pooling)
    )


def combine_weights_gradient(upstream: Any, rows: Any, places: Any, pooling: Pooling) -> Any:
    """The gradient of `combine_rows` for its weights, [n]; arguments as there and in `combine_rows_gradient`."""
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


def _ops_for(values: Any) -> Any | None:
    return library.load() if values.dtype == tf.float32 else None


def _common(pooling: Pooling) -> dict[str, Any]:
    weights = [] if pooling.weights is None else [pooling.weights]
    return {"segments": pooling.segments, "weights": weights, "combiner": pooling.combiner}
