"""Lion: every element moves by the same size, in the direction of a moving average. Source: Chen et al. 2023."""

from collections.abc import Sequence

import tensorflow as tf

from tfps.ops.rules.declaration import Hyper, RowRule, Slot


def _lion(
    rows: tf.Tensor, slots: Sequence[tf.Tensor], gradient: tf.Tensor, measure: tf.Tensor, hyper: Hyper
) -> list[tf.Tensor]:
    direction = hyper["beta_1"] * slots[0] + (1 - hyper["beta_1"]) * gradient
    return [-hyper["learning_rate"] * tf.sign(direction), (gradient - slots[0]) * (1 - hyper["beta_2"])]


RULES = (
    RowRule(
        name="lion",
        hyperparameters=("learning_rate", "beta_1", "beta_2"),
        # beta_1 only mixes the average with the current gradient; the average itself decays by beta_2.
        slots=(Slot("momentum", "_momentums", "m", decay="beta_2"),),
        formula=_lion,
        keras=("keras.optimizers.Lion",),
        update="`w -= rate * sign(beta_1 * m + (1 - beta_1) * g)`; then `m += (g - m) * (1 - beta_2)`",
    ),
)
