"""Lookups that are pooled by the bag: rows are combined as they came, and gradients go back to them, summed by id.

What `tfps.embedding.lookup.expand` does for plain lookups, this does for bags. No row is copied for each place that
asks for it: going forward, bags are combined from the unique rows, and going backward, the gradients of bags are added
to these.
"""

import tensorflow as tf

from tfps.embedding.lookup_group import LookupResult
from tfps.embedding.table_gradient import table_gradient, watch
from tfps.ops.combine_rows import (
    Pooling,
    cast_weights,
    combine,
    combine_rows,
    combine_rows_gradient,
    combine_weights_gradient,
)
from tfps.ops.graph_gradient import with_gradient


def pool(found: LookupResult, pooling: Pooling) -> tf.Tensor:
    """The rows of one lookup pooled, with their gradient for the table and for the weights.

    Args:
        found: the lookup, of ids [n].
        pooling: the bags of the ids.

    Returns:
        [bags, dim]. Its gradient for the table is an IndexedSlices in which each id comes once.
    """
    answer, places = found.group.answer, found.places
    current = watch(found)
    if current is None:
        return combine_rows(answer, places, pooling)
    pooling = cast_weights(pooling, answer.dtype)

    def backward(upstream: tf.Tensor) -> list[tf.IndexedSlices | tf.Tensor]:
        # The gradient may come as IndexedSlices.
        upstream = tf.convert_to_tensor(upstream)
        summed = combine_rows_gradient(upstream, found.table_places, pooling, tf.size(found.table_ids, tf.int64))
        gradients = [table_gradient(current, found, tf.cast(summed, tf.float32))]
        if pooling.weights is not None:
            gradients.append(combine_weights_gradient(upstream, answer, places, pooling))
        return gradients

    inputs = [current.gradient_source(found.table.key), *([] if pooling.weights is None else [pooling.weights])]
    return with_gradient(combine(answer, places, pooling), inputs, backward)
