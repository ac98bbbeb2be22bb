"""From the unique rows of a step to the rows of each lookup, with the gradient summed per unique row."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfps.ops.segment_sum_rows import segment_sum_rows


def expand_rows(rows: Any, inverse: Sequence[Any]) -> list[Any]:
    """Gives every place its row.

    The gradient with respect to `rows` is a plain tensor, [M, dim]: the sum over all places of each row, in one op.
    (That of `tf.gather` is one IndexedSlices a lookup, with an entry a place.)

    Args:
        rows: float32, [M, dim], the answers of all servers one after the other.
        inverse: one int32 tensor a lookup, any shape, from `route_unique`.

    Returns:
        One float32 tensor a lookup, the shape of its inverse and dim.
    """

    @tf.custom_gradient
    def expand(unique: Any) -> tuple[list[Any], Any]:
        def gradient(*upstream: Any) -> Any:
            return segment_sum_rows(upstream, inverse, tf.shape(unique, tf.int64)[0])

        return [tf.gather(unique, places) for places in inverse], gradient

    expanded = expand(rows)
    # custom_gradient hands back a lone tensor as itself.
    return list(expanded) if isinstance(expanded, list | tuple) else [expanded]
