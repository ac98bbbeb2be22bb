"""`TableGradient`: the gradient of a table from the backward pass of a lookup, for the tape and for the step's push."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf
from tensorflow.python.eager import tape as tape_lib  # how a variable tells the tapes that it was read is not public

from tfps import step
from tfps.embedding.lookup_group import LookupGroup, LookupResult
from tfps.embedding.routed_rows import RoutedRows
from tfps.ops.segment_sum_rows import segment_sum_rows


@dataclasses.dataclass(frozen=True, eq=False)
class TableGradient:
    """The gradient of a table from one lookup.

    Args:
        table: the table of the lookup.
        group: the group of the lookup.
        values: the gradient of each unique id of the table, [m_t, dim].
        unsummed: the gradients that `values` is the sum of, and the index of each into the group's answer; None if they
            are not known. The push then makes one sum over all tables of the group, which is cheaper than a sum for
            each table, and `values` is never computed.
    """

    table: RoutedRows
    group: LookupGroup
    values: tf.Tensor
    unsummed: tuple[tf.Tensor, tf.Tensor] | None = None


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
        unsummed: as in `TableGradient`.
    """
    table = found.table
    # The optimizer passes the IndexedSlices on. The push recognises its values in this record, and then need not route
    # them again.
    if current is not None:
        current.gradients.append(TableGradient(table, found.group, summed, unsummed))
    return tf.IndexedSlices(summed, found.table_ids, dense_shape=tf.constant([table.rows, table.dim], tf.int64))


def sum_in_answer_order(gradients: Sequence[TableGradient]) -> tf.Tensor:
    """Returns the gradients of all unique ids of a group, [M, dim], in the order of its answer.

    Args:
        gradients: the gradient of each table of the group, in the order of its tables.
    """
    group = gradients[0].group
    # The usual case: nothing has needed the sums so far, so one op sums over all tables.
    unsummed = [gradient.unsummed for gradient in gradients if gradient.unsummed is not None]
    if len(unsummed) == len(gradients):
        places = [rows for _, rows in unsummed]
        return segment_sum_rows([values for values, _ in unsummed], places, tf.size(group.routed.unique_ids, tf.int64))
    if len(gradients) == 1:
        return gradients[0].values
    # `table_order` lists, table by table, the index of each unique id in the answer. Its inverse is the order of the
    # answer.
    order = tf.math.invert_permutation(group.routed.table_order)
    return tf.gather(tf.concat([gradient.values for gradient in gradients], 0), order)
