"""Pooled lookups: combines the unique rows into one row for each bag, and sums the gradients of bags by id.

`pool` does for bags what `tfps.embedding.lookup.expand` does for plain lookups. It never makes a copy of a row for each
id that asks for it: the forward pass combines bags straight from the unique rows, and the backward pass adds the
gradients of bags straight to the gradients of the unique ids.
"""

import tensorflow as tf

from tfps import step
from tfps.embedding.inner_gradients import gradient_path
from tfps.embedding.lookup_group import LookupResult
from tfps.embedding.table_gradient import gradient_of_places, table_gradient, watch
from tfps.ops.combine_rows import (
    Pooling,
    cast_weights,
    combine,
    combine_rows,
    combine_rows_gradient,
    combine_weights_gradient,
    element_gradients,
)
from tfps.ops.graph_gradient import with_gradient


def pool(found: LookupResult, pooling: Pooling, per_place: bool = False) -> tf.Tensor:
    """Pools the rows of one lookup, with gradients for the table and for the weights.

    Args:
        found: the lookup of ids [n].
        pooling: the bag of each id, and how bags combine their rows.
        per_place: whether a table that keeps repeats gets the gradient of each place, not of each id.

    Returns:
        The pooled rows, [bags, dim]. Their gradient for the table is an IndexedSlices that has each id once, or one of
        all places.
    """
    answer, places = found.group.answer, found.places
    # A plain combine is enough for a table without a gradient, and it saves the ops of the backward pass.
    if not watch(found):
        return combine_rows(answer, places, pooling)
    current = step.current()
    pooling = cast_weights(pooling, answer.dtype)
    source, finish = gradient_path(current, found.table)

    def backward(upstream: tf.Tensor) -> list[tf.IndexedSlices | tf.Tensor]:
        # A gather on the pooled rows gives its gradient as IndexedSlices, which the C++ ops do not take.
        upstream = tf.ensure_shape(tf.convert_to_tensor(upstream), [None, found.table.dim])
        with step.on_host():
            gradients = [finish(_gradient_of_table(current, found, upstream, pooling, per_place))]
            if pooling.weights is not None:
                gradients.append(combine_weights_gradient(upstream, answer, places, pooling))
        return gradients

    inputs = [source, *([] if pooling.weights is None else [pooling.weights])]
    return with_gradient(combine(answer, places, pooling), inputs, backward)


def _gradient_of_table(
    current: step.Step | None, found: LookupResult, upstream: tf.Tensor, pooling: Pooling, per_place: bool
) -> tf.IndexedSlices:
    if per_place and found.table.keeps_repeats:
        # A copy of the gradient for each place, because the rule has to measure each by itself.
        values = tf.cast(element_gradients(upstream, pooling), tf.float32)
        return gradient_of_places(current, found, values, found.places, found.table_places)
    summed = combine_rows_gradient(upstream, found.table_places, pooling, tf.size(found.table_ids, tf.int64))
    return table_gradient(current, found, tf.cast(summed, tf.float32))
