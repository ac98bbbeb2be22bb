"""Adam and its variants. Sources: Kingma & Ba 2014 (Adam, Adamax), Reddi et al. 2018 (AMSGrad), Dozat 2016 (Nadam)."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfps.ops.rules.declaration import Hyper, RowRule, Slot, in_float64

_NADAM_DECAY = 0.96
_NADAM_PRODUCTS = np.cumprod(1 - 0.5 * _NADAM_DECAY ** np.arange(1, 601))
"""Products of the momenta of the first 600 steps, without their factors beta_1. In float32, later factors are 1."""


def _moments(
    slots: Sequence[tf.Tensor], gradient: tf.Tensor, measure: tf.Tensor, hyper: Hyper
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the deltas of the moving averages of the gradient and of its square."""
    first = (gradient - slots[0]) * (1 - hyper["beta_1"])
    return first, (measure - slots[1]) * (1 - hyper["beta_2"])


def _corrected_rate(gradient: tf.Tensor, hyper: Hyper) -> tf.Tensor:
    # The bias corrections of both moments, combined in the learning rate as Keras does.
    beta_1, beta_2, step = in_float64(hyper, "beta_1", "beta_2", "step")
    return hyper["learning_rate"] * tf.cast(tf.sqrt(1 - beta_2**step) / (1 - beta_1**step), gradient.dtype)


def _adam(
    rows: tf.Tensor, slots: Sequence[tf.Tensor], gradient: tf.Tensor, measure: tf.Tensor, hyper: Hyper
) -> list[tf.Tensor]:
    first, second = _moments(slots, gradient, measure, hyper)
    under = tf.sqrt(slots[1] + second) + hyper["epsilon"]
    return [-_corrected_rate(gradient, hyper) * (slots[0] + first) / under, first, second]


def _amsgrad(
    rows: tf.Tensor, slots: Sequence[tf.Tensor], gradient: tf.Tensor, measure: tf.Tensor, hyper: Hyper
) -> list[tf.Tensor]:
    first, second = _moments(slots, gradient, measure, hyper)
    largest = tf.maximum(slots[2], slots[1] + second)
    step = _corrected_rate(gradient, hyper) * (slots[0] + first) / (tf.sqrt(largest) + hyper["epsilon"])
    return [-step, first, second, largest - slots[2]]


def _adamax(
    rows: tf.Tensor, slots: Sequence[tf.Tensor], gradient: tf.Tensor, measure: tf.Tensor, hyper: Hyper
) -> list[tf.Tensor]:
    beta_1, step = in_float64(hyper, "beta_1", "step")
    rate = hyper["learning_rate"] / tf.cast(1 - beta_1**step, gradient.dtype)
    first = (gradient - slots[0]) * (1 - hyper["beta_1"])
    norm = tf.maximum(hyper["beta_2"] * slots[1], measure)
    return [-rate * (slots[0] + first) / (norm + hyper["epsilon"]), first, norm - slots[1]]


def _nadam(
    rows: tf.Tensor, slots: Sequence[tf.Tensor], gradient: tf.Tensor, measure: tf.Tensor, hyper: Hyper
) -> list[tf.Tensor]:
    beta_1, beta_2, step = in_float64(hyper, "beta_1", "beta_2", "step")
    decay = tf.constant(_NADAM_DECAY, tf.float64)
    now, following = (beta_1 * (1 - 0.5 * decay**at) for at in (step, step + 1))
    # Keras keeps the product of all momenta in a variable. The products of several workers cannot be added, so the
    # product is computed from the step number here.
    index = tf.cast(tf.minimum(step, len(_NADAM_PRODUCTS)), tf.int32) - 1
    product = beta_1**step * tf.gather(_NADAM_PRODUCTS, index)
    first, second = _moments(slots, gradient, measure, hyper)
    of_momentum, of_gradient, correction = (
        tf.cast(factor, gradient.dtype)
        for factor in (following / (1 - product * following), (1 - now) / (1 - product), 1 - beta_2**step)
    )
    ahead = of_momentum * (slots[0] + first) + of_gradient * gradient
    under = tf.sqrt((slots[1] + second) / correction) + hyper["epsilon"]
    return [-hyper["learning_rate"] * ahead / under, first, second]


_NUMBERS = ("learning_rate", "beta_1", "beta_2", "epsilon", "step")
_MOMENTUM = Slot("momentum", "_momentums", "m", decay="beta_1")
_VELOCITY = Slot("velocity", "_velocities", "v", decay="beta_2")
_CORRECTED = "w -= rate * sqrt(1 - beta_2**t) / (1 - beta_1**t) * m"

RULES = (
    RowRule(
        name="adam",
        measure="square",
        hyperparameters=_NUMBERS,
        slots=(_MOMENTUM, _VELOCITY),
        formula=_adam,
        keras=("keras.optimizers.Adam", "keras.optimizers.AdamW"),
        update=f"`m += (g - m) * (1 - beta_1)`; `v += (q - v) * (1 - beta_2)`; `{_CORRECTED} / (sqrt(v) + epsilon)`",
    ),
    RowRule(
        name="adam_amsgrad",
        measure="square",
        hyperparameters=_NUMBERS,
        # A maximum of averages decays no faster than the averages, and like them it must not be summed over workers.
        slots=(_MOMENTUM, _VELOCITY, Slot("velocity_hat", "_velocity_hats", "h", decay="beta_2")),
        formula=_amsgrad,
        keras=("keras.optimizers.Adam", "keras.optimizers.AdamW"),
        options=("amsgrad",),
        update=f"m and v as for `adam`; `h = max(h, v)`; `{_CORRECTED} / (sqrt(h) + epsilon)`",
    ),
    RowRule(
        name="adamax",
        measure="magnitude",
        hyperparameters=_NUMBERS,
        slots=(Slot("momentum", "_m", "m", decay="beta_1"), Slot("norm", "_u", "u", decay="beta_2")),
        formula=_adamax,
        keras=("keras.optimizers.Adamax",),
        update="m as for `adam`; `u = max(beta_2 * u, q)`; `w -= rate / (1 - beta_1**t) * m / (u + epsilon)`",
    ),
    RowRule(
        name="nadam",
        measure="square",
        hyperparameters=_NUMBERS,
        slots=(_MOMENTUM, _VELOCITY),
        formula=_nadam,
        keras=("keras.optimizers.Nadam",),
        update="m and v as for `adam`; `w -= rate * (n(t+1) * m / (1 - p * n(t+1)) + (1 - n(t)) * g / (1 - p)) / "
        "(sqrt(v / (1 - beta_2**t)) + epsilon)`, where `n(t) = beta_1 * (1 - 0.96**t / 2)` and p is the product of "
        "`n(1)` to `n(t)`",
    ),
)
