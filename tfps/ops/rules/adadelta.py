"""Adadelta: steps as large as the average of the earlier steps. Source: Zeiler 2012."""

from collections.abc import Sequence

import tensorflow as tf

from tfps.ops.rules.declaration import Hyper, RowRule, Slot


def _adadelta(rows: tf.Tensor, slots: Sequence[tf.Tensor], gradient: tf.Tensor, hyper: Hyper) -> list[tf.Tensor]:
    # `squared` is the delta of slot 0, so the average after this step is slots[0] + squared.
    squared = (tf.square(gradient) - slots[0]) * (1 - hyper["rho"])
    step = tf.sqrt(slots[1] + hyper["epsilon"]) * gradient / tf.sqrt(slots[0] + squared + hyper["epsilon"])
    return [-hyper["learning_rate"] * step, squared, (tf.square(step) - slots[1]) * (1 - hyper["rho"])]


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
        update="`a += (g * g - a) * (1 - rho)`; `d = sqrt(x + epsilon) * g / sqrt(a + epsilon)`; "
        "`x += (d * d - x) * (1 - rho)`; `w -= rate * d`",
    ),
)
