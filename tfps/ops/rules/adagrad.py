"""Adagrad: elements with large gradients in the past take smaller steps. Source: Duchi et al. 2011."""

from collections.abc import Sequence

import tensorflow as tf

from tfps.ops.rules.declaration import Hyper, RowRule, Slot


def _adagrad(
    rows: tf.Tensor, slots: Sequence[tf.Tensor], gradient: tf.Tensor, measure: tf.Tensor, hyper: Hyper
) -> list[tf.Tensor]:
    # The accumulator after this step counts, so the square of this gradient is added before the division.
    return [-hyper["learning_rate"] * gradient / tf.sqrt(slots[0] + measure + hyper["epsilon"]), measure]


RULES = (
    RowRule(
        name="adagrad",
        hyperparameters=("learning_rate", "epsilon"),
        slots=(Slot("accumulator", "_accumulators", "a"),),
        formula=_adagrad,
        keras=("keras.optimizers.Adagrad",),
        measure="square",
        update="`a += q`; `w -= rate * g / sqrt(a + epsilon)`",
    ),
)
