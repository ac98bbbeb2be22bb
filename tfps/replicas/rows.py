"""Updates the rows of a replica's copy of a table that have a gradient, and no others."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfps.embedding.push import RowUpdate, push
from tfps.embedding.routed_rows import RoutedRows
from tfps.embedding.variable_row_store import VariableRowStore
from tfps.ops import library
from tfps.ops.apply_rows import update_deltas
from tfps.ops.row_rules import RowRule
from tfps.ops.rules.declaration import Measure, measure_of
from tfps.placement.routing import Routing


@dataclasses.dataclass(frozen=True, eq=False)
class LocalUpdate:
    """The update of one table on one device.

    Args:
        rows: the table, [rows, dim], and then its slots in the order of the rule.
        gradient: the gradient; ids may repeat.
        rule: the optimizer in its row-wise form.
        hyper: the hyperparameters in the order of the rule, and then the weight decay, float32 [h + 1].
        measure: what is summed beside the gradients of an id that repeats; None for nothing.
    """

    rows: Sequence[tf.Variable]
    gradient: tf.IndexedSlices
    rule: RowRule
    hyper: tf.Tensor
    measure: Measure | None


def apply(updates: Sequence[LocalUpdate]) -> None:
    """Applies updates; the ops of one width and rule are one op on a CPU with the C++ ops."""
    fused = [update for update in updates if _has_op(update)]
    if fused:
        push([_routed(update) for update in fused], [])
    for update in updates:
        if update not in fused:
            apply_on_device(update)


def apply_on_device(update: LocalUpdate) -> None:
    """Applies an update by TensorFlow's own ops, which every device has."""
    with tf.device(update.rows[0].device):
        gradient = update.gradient
        ids, places = tf.unique(tf.cast(tf.reshape(gradient.indices, [-1]), tf.int64))
        count = tf.size(ids)
        summed = tf.math.unsorted_segment_sum(gradient.values, places, count)
        measure = None
        if update.measure is not None:
            measure = tf.math.unsorted_segment_sum(measure_of(update.measure, gradient.values), places, count)
        rows = [tf.gather(variable, ids) for variable in update.rows]
        deltas = update_deltas(update.rule, rows, update.hyper, summed, measure)
        for variable, delta in zip(update.rows, deltas, strict=True):
            variable.scatter_add(tf.IndexedSlices(delta, ids))


def _has_op(update: LocalUpdate) -> bool:
    on_cpu = "GPU" not in update.rows[0].device and "TPU" not in update.rows[0].device
    return on_cpu and library.available() and update.rows[0].dtype == tf.float32


def _routed(update: LocalUpdate) -> RowUpdate:
    table, *slots = (_LocalRows(variable) for variable in update.rows)
    return RowUpdate(table, slots, update.gradient, update.rule, update.hyper, update.measure)


class _LocalRows(RoutedRows):
    """A variable of this process, as the one server of a table: the ops for servers then update it where it is."""

    def __init__(self, variable: tf.Variable) -> None:
        rows = int(variable.shape[0])
        store = VariableRowStore(variable, rows)
        super().__init__(variable._unique_id, variable.name, Routing("mod", rows, 1), (0,), [store], True)
