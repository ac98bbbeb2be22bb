"""Lookups that are pooled by the bag: rows are combined as they came, and gradients go back to them, summed by id.

What `expand` of the module `lookup` is for plain lookups: no row is copied out for each place that asks for it, neither
forward, where bags are combined from the unique rows, nor backward, where the gradients of bags are added to these.
"""

from typing import Any

import tensorflow as tf

from tfps.embedding.lookup_group import LookupResult
from tfps.embedding.table_gradient import table_gradient, watch
from tfps.ops.combine_rows import (
    Pooling,
    combine_rows,
    combine_rows_gradient,
    combine_weights_gradient,
    combined,
    weighed_as,
)


def pool(found: LookupResult, pooling: Pooling) -> Any:
    """The rows of one lookup pooled, with their gradient for the table and for the weights.

    Args:
        found: the lookup, of ids [n].
        pooling: the bags of the ids.

    Returns:
        [bags, dim]. Its gradient for the table is an IndexedSlices in which each id comes once.
    """
    group, places = found.group, found.places
    current = watch(found)
    if current is None:
        return combine_rows(group.answer, places, pooling)
    pooling = weighed_as(pooling, group.answer.dtype)

    def backward(upstream: Any) -> Any:
        upstream = tf.convert_to_tensor(upstream)  # it may be IndexedSlices
        summed = combine_rows_gradient(upstream, found.table_places, pooling, tf.size(found.table_ids, tf.int64))
        to_table = table_gradient(current, found, tf.cast(summed, tf.float32))
        if pooling.weights is None:
            return to_table
        return to_table, combine_weights_gradient(upstream, group.answer, places, pooling)

    @tf.custom_gradient
    def with_gradient(*_: Any) -> Any:
        return combined(group.answer, places, pooling), backward

    source = current.gradient_source(found.table.key)
    return with_gradient(source) if pooling.weights is None else with_gradient(source, pooling.weights)
