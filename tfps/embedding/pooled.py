"""Lookups that are pooled by the bag: rows are combined as they came, and gradients go back to them, summed by id.

What `expand` of the module `lookup` is for plain lookups: no row is copied out for each place that asks for it, neither
forward, where bags are combined from the unique rows, nor backward, where the gradients of bags are added to these.
"""

from typing import Any

import tensorflow as tf

from tfps.embedding.lookup import LookupResult, table_gradient, watching
from tfps.ops.combine_rows import (
    Pooling,
    combine_rows,
    combine_rows_gradient,
    combine_weights_gradient,
    combined,
    weighed_as,
)
from tfps.ops.graph_gradient import with_gradient


def pool(found: LookupResult, pooling: Pooling) -> Any:
    """The rows of one lookup pooled, with their gradient for the table and for the weights.

    Args:
        found: the lookup, of ids [n].
        pooling: the bags of the ids.

    Returns:
        [bags, dim]. Its gradient for the table is an IndexedSlices in which each id comes once.
    """
    group, index = found.group, found.index
    places = group.places[index]
    current = watching(found)
    if current is None:
        return combine_rows(group.answer, places, pooling)
    pooling = weighed_as(pooling, group.answer.dtype)

    def backward(upstream: Any) -> Any:
        upstream = tf.convert_to_tensor(upstream)  # it may be IndexedSlices
        own = group.table_places[index]
        summed = combine_rows_gradient(upstream, own, pooling, tf.size(found.table_ids, tf.int64))
        to_table = table_gradient(current, found, tf.cast(summed, tf.float32))
        if pooling.weights is None:
            return [to_table]
        return to_table, combine_weights_gradient(upstream, group.answer, places, pooling)

    inputs = [current.gradient_source(found.table.key), *([] if pooling.weights is None else [pooling.weights])]
    return with_gradient(combined(group.answer, places, pooling), inputs, backward)
