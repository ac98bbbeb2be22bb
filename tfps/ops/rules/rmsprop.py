"""RMSprop in its four variants. Source: Hinton, lecture 6 of "Neural Networks for Machine Learning"."""

from collections.abc import Sequence

import tensorflow as tf

from tfps.ops.rules.declaration import Hyper, RowRule, Slot


def _rmsprop(
    rows: tf.Tensor, slots: Sequence[tf.Tensor], gradient: tf.Tensor, measure: tf.Tensor, hyper: Hyper
) -> list[tf.Tensor]:
    velocity = (measure - slots[0]) * (1 - hyper["rho"])
    return [-hyper["learning_rate"] * gradient / tf.sqrt(slots[0] + velocity + hyper["epsilon"]), velocity]


def _centered(
    rows: tf.Tensor, slots: Sequence[tf.Tensor], gradient: tf.Tensor, measure: tf.Tensor, hyper: Hyper
) -> list[tf.Tensor]:
    # The variance of the gradient, E[g * g] - E[g]**2, replaces its mean square.
    velocity = (measure - slots[0]) * (1 - hyper["rho"])
    average = (gradient - slots[1]) * (1 - hyper["rho"])
    under_root = slots[0] + velocity - tf.square(slots[1] + average) + hyper["epsilon"]
    return [-hyper["learning_rate"] * gradient / tf.sqrt(under_root), velocity, average]


def _momentum(
    rows: tf.Tensor, slots: Sequence[tf.Tensor], gradient: tf.Tensor, measure: tf.Tensor, hyper: Hyper
) -> list[tf.Tensor]:
    # `step` is negative (it is added to the row), the momentum slot accumulates positive steps.
    step, velocity = _rmsprop(rows, slots[:1], gradient, measure, hyper)
    moved = hyper["momentum"] * slots[1] - step
    return [-moved, velocity, moved - slots[1]]


def _momentum_centered(
    rows: tf.Tensor, slots: Sequence[tf.Tensor], gradient: tf.Tensor, measure: tf.Tensor, hyper: Hyper
) -> list[tf.Tensor]:
    step, velocity, average = _centered(rows, [slots[0], slots[2]], gradient, measure, hyper)
    moved = hyper["momentum"] * slots[1] - step
    return [-moved, velocity, moved - slots[1], average]


_KERAS = ("keras.optimizers.RMSprop",)
_NUMBERS = ("learning_rate", "rho", "epsilon")
_VELOCITY = Slot("velocity", "_velocities", "v", decay="rho")
_MOMENTUM = Slot("momentum", "_momentums", "p", decay="momentum")
_AVERAGE = Slot("average_gradient", "_average_gradients", "c", decay="rho")

RULES = (
    RowRule(
        name="rmsprop",
        measure="square",
        hyperparameters=_NUMBERS,
        slots=(_VELOCITY,),
        formula=_rmsprop,
        keras=_KERAS,
        update="`v += (q - v) * (1 - rho)`; `w -= d`, where `d = rate * g / sqrt(v + epsilon)`",
    ),
    RowRule(
        name="rmsprop_momentum",
        measure="square",
        hyperparameters=(*_NUMBERS, "momentum"),
        slots=(_VELOCITY, _MOMENTUM),
        formula=_momentum,
        keras=_KERAS,
        options=("momentum",),
        update="d as for `rmsprop`; `p = momentum * p + d`; `w -= p`",
    ),
    RowRule(
        name="rmsprop_centered",
        measure="square",
        # Summed squares may be less than the square of the summed gradient, and the variance would be negative.
        repeats=False,
        # So may a rounded mean of squares.
        rounds=False,
        hyperparameters=_NUMBERS,
        slots=(_VELOCITY, _AVERAGE),
        formula=_centered,
        keras=_KERAS,
        options=("centered",),
        update="v as for `rmsprop`; `c += (g - c) * (1 - rho)`; `w -= d`, where "
        "`d = rate * g / sqrt(v - c * c + epsilon)`",
    ),
    RowRule(
        name="rmsprop_momentum_centered",
        measure="square",
        # Summed squares may be less than the square of the summed gradient, and the variance would be negative.
        repeats=False,
        # So may a rounded mean of squares.
        rounds=False,
        hyperparameters=(*_NUMBERS, "momentum"),
        slots=(_VELOCITY, _MOMENTUM, _AVERAGE),
        formula=_momentum_centered,
        keras=_KERAS,
        options=("momentum", "centered"),
        update="d as for `rmsprop_centered`; `p = momentum * p + d`; `w -= p`",
    ),
)
