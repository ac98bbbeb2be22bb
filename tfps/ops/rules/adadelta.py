"""Adadelta: steps as large as the average of the earlier steps. Source: Zeiler 2012."""

from collections.abc import Sequence

import tensorflow as tf

from tfps.ops.rules.declaration import Hyper, RowRule, Slot


def _adadelta(
    rows: tf.Tensor, slots: Sequence[tf.Tensor], gradient: tf.Tensor, measure: tf.Tensor, hyper: Hyper
) -> list[tf.Tensor]:
    # `squared` is the delta of slot 0, so the average after this step is slots[0] + squared.
    squared = (measure - slots[0]) * (1 - hyper["rho"])
    scale = tf.sqrt(slots[1] + hyper["epsilon"]) / tf.sqrt(slots[0] + squared + hyper["epsilon"])
    moved = (tf.square(scale) * measure - slots[1]) * (1 - hyper["rho"])
    return [-hyper["learning_rate"] * scale * gradient, squared, moved]


RULES = (
    RowRule(
        name="adadelta",
        hyperparameters=("learning_rate", "rho", "epsilon"),
        slots=(
            Slot("accumulated_grad", "_accumulated_grads", "a", decay="rho"),
            Slot("accumulated_delta", "_accumulated_delta_vars", "x", decay="rho"),
        ),
        formula=_adadelta,
        keras=("keras.optimizers.Adadelta",),
        update="`a += (q - a) * (1 - rho)`; `d = sqrt(x + epsilon) / sqrt(a + epsilon)`; "
        "`x += (d * d * q - x) * (1 - rho)`; `w -= rate * d * g`",
        measure="square",
    ),
)
