"""Adagrad with one accumulator per row. Source: FBGEMM's exact_rowwise_adagrad, with which DLRM trains its tables.

FBGEMM adds epsilon to the root; here it is under the root, as in Keras's Adagrad.
"""

from collections.abc import Sequence

import tensorflow as tf

from tfps.ops.rules.declaration import Hyper, RowRule, Slot


def _rowwise_adagrad(
    rows: tf.Tensor, slots: Sequence[tf.Tensor], gradient: tf.Tensor, measure: tf.Tensor, hyper: Hyper
) -> list[tf.Tensor]:
    # One number for each row, [m, 1], which broadcasts over the row.
    # Of the summed gradient, as in the optimizer itself, which sums the gradients of an id that repeats.
    mean = tf.reduce_mean(tf.square(gradient), -1, keepdims=True)
    rate = hyper["learning_rate"] / tf.sqrt(slots[0] + mean + hyper["epsilon"])
    return [-rate * gradient, mean]


RULES = (
    RowRule(
        name="rowwise_adagrad",
        hyperparameters=("learning_rate", "epsilon"),
        slots=(Slot("accumulator", "_accumulators", "a", per_row=True),),
        formula=_rowwise_adagrad,
        keras=("tfps.keras.rowwise_adagrad.RowwiseAdagrad",),
        update="`a += mean(g * g)`, one number a row; `w -= rate * g / sqrt(a + epsilon)`",
    ),
)
