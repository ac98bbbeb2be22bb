"""The gradient of a table: what the backward pass of a lookup gives the tape, and the push of the step."""

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
    """What the backward pass of one lookup gave.

    Args:
        table: of the lookup.
        group: of the lookup.
        values: the gradient summed by unique id of the table, [m_t, dim].
        unsummed: where it is known, what `values` sums up: the gradient of each place, and its row of the group's
            answer. One sum over all tables of a group costs less than one for each; `values` are then never computed.
    """

    table: RoutedRows
    group: LookupGroup
    values: tf.Tensor
    unsummed: tuple[tf.Tensor, tf.Tensor] | None = None


def watch(found: LookupResult) -> step.Step | None:
    """Tells the tapes that a lookup reads its table.

    Returns:
        The step under trace; None where nobody can ask for a gradient.
    """
    current = step.current()
    if current is None or not found.table.trainable:
        return None
    # Without it a tape that watches "all trainable variables" would not know of the table.
    tape_lib.variable_accessed(found.table)
    return current


def table_gradient(
    current: step.Step,
    found: LookupResult,
    summed: tf.Tensor,
    unsummed: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> tf.IndexedSlices:
    """The gradient of a table as the tape gets it; the step keeps it for its push.

    Args:
        current: the step under trace.
        found: the lookup.
        summed: the gradient by unique id of the table, [m_t, dim].
        unsummed: see `TableGradient`.
    """
    table = found.table
    current.gradients.append(TableGradient(table, found.group, summed, unsummed))
    return tf.IndexedSlices(summed, found.table_ids, dense_shape=tf.constant([table.rows, table.dim], tf.int64))


def sum_in_answer_order(gradients: Sequence[TableGradient]) -> tf.Tensor:
    """The gradients of all unique ids of a group, [M, dim], in the order of its answer.

    Args:
        gradients: one for each table of the group, in the order of its tables.
    """
    group = gradients[0].group
    # The usual case: no sum was needed so far, and one over all tables is made here.
    unsummed = [gradient.unsummed for gradient in gradients if gradient.unsummed is not None]
    if len(unsummed) == len(gradients):
        places = [rows for _, rows in unsummed]
        return segment_sum_rows([values for values, _ in unsummed], places, tf.size(group.routed.unique_ids, tf.int64))
    if len(gradients) == 1:
        return gradients[0].values
    # table_order lists, table by table, where in the answer each unique id is; its inverse brings the sums there.
    order = tf.math.invert_permutation(group.routed.table_order)
    return tf.gather(tf.concat([gradient.values for gradient in gradients], 0), order)
