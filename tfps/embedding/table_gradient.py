"""`TableGradient`: the gradient of a table from the backward pass of a lookup, for the tape and for the step's push."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
from tensorflow.python.eager import tape as tape_lib  # how a variable tells the tapes that it was read is not public

from tfps import step
from tfps.embedding.lookup_group import LookupGroup, LookupResult
from tfps.embedding.routed_rows import RoutedRows
from tfps.ops.rules.declaration import Measure
from tfps.ops.segment_sum_rows import segment_sum_repeats, segment_sum_rows
from tfps.ops.shared_constants import shared_constant


@dataclasses.dataclass(frozen=True, eq=False)
class TableGradient:
    """The gradient of a table from one lookup.

    Args:
        table: the table of the lookup.
        group: the group of the lookup.
        values: the gradient of each unique id of the table, [m_t, dim]; of each place if the table keeps repeats, [n,
            dim].
        unsummed: pairs of gradients that `values` is the sum of, and the index of each into the group's answer: a pair
            for each device that shares the lookup. None if they are not known. The push then makes one sum over all
            tables of the group, which is cheaper than a sum for each table, and `values` is never computed.
    """

    table: RoutedRows
    group: LookupGroup
    values: tf.Tensor
    unsummed: tuple[tuple[tf.Tensor, tf.Tensor], ...] | None = None


def watch(found: LookupResult) -> bool:
    """Tells the active gradient tapes that a lookup reads its table; returns whether the table needs a gradient."""
    if found.table.trainable:
        # A tape that watches all trainable variables finds the table only through this call.
        tape_lib.variable_accessed(found.table)
    return found.table.trainable


def table_gradient(
    current: step.Step | None,
    found: LookupResult,
    summed: tf.Tensor,
    unsummed: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> tf.IndexedSlices:
    """Returns the gradient of a table for the tape, and records it in the step for the push.

    Args:
        current: the step that made the lookup; None outside of steps.
        found: the lookup.
        summed: the gradient of each unique id of the table, [m_t, dim].
        unsummed: a pair as in `TableGradient`.
    """
    table = found.table
    # The optimizer passes the IndexedSlices on. The push recognises its values in this record, and then need not route
    # them again.
    if current is not None:
        current.gradients.append(TableGradient(table, found.group, summed, None if unsummed is None else (unsummed,)))
    return tf.IndexedSlices(summed, found.table_ids, dense_shape=shared_constant((table.rows, table.dim), tf.int64))


def gradient_of_places(
    current: step.Step | None, found: LookupResult, values: tf.Tensor, places: tf.Tensor, table_places: tf.Tensor
) -> tf.IndexedSlices:
    """Returns the gradient of a table that keeps repeats, and records it in the step for the push.

    As in Keras, an id comes once for each of its places, and whoever needs the sum sums.

    Args:
        current: the step that made the lookup; None outside of steps.
        found: the lookup.
        values: the gradient of each place, of the shape of the places and [dim].
        places: the index of each into the group's answer.
        table_places: the index of each into the unique ids of the table.
    """
    flat = tf.reshape(values, [-1, found.table.dim])
    ids = tf.gather(found.table_ids, tf.reshape(table_places, [-1]))
    if current is not None:
        current.gradients.append(TableGradient(found.table, found.group, flat, ((values, places),)))
    shape = tf.constant([found.table.rows, found.table.dim], tf.int64)
    return tf.IndexedSlices(flat, ids, dense_shape=shape)


class Summed(NamedTuple):
    """Gradients that are summed by row.

    Args:
        rows: the sums, [M, dim].
        marks: `tfps.ops.row_request.REPEATS` for each row with measures and 0 for others, int64 [M]; None without.
        measures: the summed measures of these rows, [r, dim]; None without.
    """

    rows: tf.Tensor
    marks: tf.Tensor | None = None
    measures: tf.Tensor | None = None


def sum_places(
    gradients: Sequence[tf.Tensor], inverse: Sequence[tf.Tensor], num_rows: tf.Tensor, measure: Measure | None
) -> Summed:
    """Sums gradients by row, and their measures unless `measure` is None; arguments as for `segment_sum_rows`."""
    if measure is None:
        return Summed(segment_sum_rows(gradients, inverse, num_rows))
    return Summed(*segment_sum_repeats(gradients, inverse, num_rows, measure))


def sum_in_answer_order(gradients: Sequence[TableGradient], measure: Measure | None = None) -> Summed:
    """Returns the gradients of all unique ids of a group, [M, dim], in the order of its answer.

    Args:
        gradients: the gradient of each table of the group, in the order of its tables.
        measure: what is summed beside the gradients, of tables that keep repeats; None for nothing.
    """
    group = gradients[0].group
    # The usual case: nothing has needed the sums so far, so one op sums over all tables.
    unsummed = [gradient.unsummed for gradient in gradients if gradient.unsummed is not None]
    if len(unsummed) == len(gradients):
        pairs = [pair for of_table in unsummed for pair in of_table]
        rows = tf.size(group.routed.unique_ids, tf.int64)
        return sum_places([values for values, _ in pairs], [places for _, places in pairs], rows, measure)
    if len(gradients) == 1:
        return Summed(gradients[0].values)
    # `table_order` lists, table by table, the index of each unique id in the answer. Its inverse is the order of the
    # answer.
    order = tf.math.invert_permutation(group.routed.table_order)
    return Summed(tf.gather(tf.concat([gradient.values for gradient in gradients], 0), order))
