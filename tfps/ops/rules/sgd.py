"""Gradient descent, with and without momentum."""

from collections.abc import Sequence

import tensorflow as tf

from tfps.ops.rules.declaration import Hyper, RowRule, Slot


def _sgd(
    rows: tf.Tensor, slots: Sequence[tf.Tensor], gradient: tf.Tensor, measure: tf.Tensor, hyper: Hyper
) -> list[tf.Tensor]:
    return [-hyper["learning_rate"] * gradient]


def _momentum(
    rows: tf.Tensor, slots: Sequence[tf.Tensor], gradient: tf.Tensor, measure: tf.Tensor, hyper: Hyper
) -> list[tf.Tensor]:
    # As in Keras, the velocity includes the learning rate and points downhill.
    step_size = hyper["learning_rate"] * gradient
    velocity = hyper["momentum"] * slots[0] - step_size
    # `nesterov` is a number like the others, so it cannot be a Python condition here.
    step = tf.where(hyper["nesterov"] > 0, hyper["momentum"] * velocity - step_size, velocity)
    return [step, velocity - slots[0]]


RULES = (
    RowRule(
        name="sgd",
        hyperparameters=("learning_rate",),
        slots=(),
        formula=_sgd,
        keras=("keras.optimizers.SGD",),
        update="`w -= rate * g`",
    ),
    RowRule(
        name="momentum",
        hyperparameters=("learning_rate", "momentum", "nesterov"),
        # A velocity moves every worker that pulls it for a whole window. If N windows each continue it, their mean is
        # the velocity that one process would have.
        slots=(Slot("momentum", "momentums", "m", decay="momentum", mean_in_windows=True),),
        formula=_momentum,
        keras=("keras.optimizers.SGD",),
        options=("momentum",),
        update="`m = momentum * m - rate * g`; then `w += m`, or with `nesterov=True` `w += momentum * m - rate * g`",
    ),
)
