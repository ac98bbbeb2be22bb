"""Optimizers in their row-wise form: what one gradient row does to its row and slots, and to no other row.

Every rule is the element-wise formula of the Keras 3 optimizer of that name. Here it is written as *deltas* for the
graph that runs without the C++ library; tfps_ops/core/row_rules.h has the same rules in C++, and tests hold them equal.

Rows that a batch does not touch do not move: momenta of absent rows do not decay, and Adam is "lazy" (the step of its
bias correction is the optimizer's, not the row's). Weight decay reaches a row when its batch does.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

Deltas: TypeAlias = list[Any]
Hyper: TypeAlias = Mapping[str, Any]
Formula: TypeAlias = Callable[[Any, list[Any], Any, Hyper], Deltas]

_NADAM_DECAY = 0.96
_NADAM_PRODUCTS = np.cumprod(1 - 0.5 * _NADAM_DECAY ** np.arange(1, 601))
"""Of the first steps' momenta, each divided by beta_1; later ones are beta_1, for all that counts."""


@dataclasses.dataclass(frozen=True)
class RowRule:
    """One optimizer's row-wise form.

    Args:
        name: of the rule, for example "adagrad".
        slots: names of the variables it keeps beside the table, in order.
        hyperparameters: names of the numbers it takes with every update, in order, all float32 scalars. After them
            comes the decay: the share of a row, weight_decay * learning_rate, that it loses before the update.
        formula: (rows [m, dim], slot rows, gradients [m, dim], hyperparameters by name) -> what to add to the rows and
            to each slot, [m, dim] each.
    """

    name: str
    slots: tuple[str, ...]
    hyperparameters: tuple[str, ...]
    formula: Formula


def _sgd(rows: Any, slots: list[Any], gradient: Any, hyper: Hyper) -> Deltas:
    return [-hyper["learning_rate"] * gradient]


def _momentum(rows: Any, slots: list[Any], gradient: Any, hyper: Hyper) -> Deltas:
    pull = hyper["learning_rate"] * gradient
    moved = hyper["momentum"] * slots[0] - pull
    step = tf.where(hyper["nesterov"] > 0, hyper["momentum"] * moved - pull, moved)
    return [step, moved - slots[0]]


def _adagrad(rows: Any, slots: list[Any], gradient: Any, hyper: Hyper) -> Deltas:
    squared = tf.square(gradient)
    return [-hyper["learning_rate"] * gradient / tf.sqrt(slots[0] + squared + hyper["epsilon"]), squared]


def _float64(hyper: Hyper, *names: str) -> list[Any]:
    """For powers of decays, because 1 - 0.999 has few digits left as a float32."""
    return [tf.cast(hyper[name], tf.float64) for name in names]


def _moments(slots: list[Any], gradient: Any, hyper: Hyper) -> tuple[Any, Any]:
    """By how much the averages of the gradient and of its square move."""
    first = (gradient - slots[0]) * (1 - hyper["beta_1"])
    return first, (tf.square(gradient) - slots[1]) * (1 - hyper["beta_2"])


def _corrected_rate(gradient: Any, hyper: Hyper) -> Any:
    beta_1, beta_2, step = _float64(hyper, "beta_1", "beta_2", "step")
    return hyper["learning_rate"] * tf.cast(tf.sqrt(1 - beta_2**step) / (1 - beta_1**step), gradient.dtype)


def _adam(rows: Any, slots: list[Any], gradient: Any, hyper: Hyper) -> Deltas:
    first, second = _moments(slots, gradient, hyper)
    under = tf.sqrt(slots[1] + second) + hyper["epsilon"]
    return [-_corrected_rate(gradient, hyper) * (slots[0] + first) / under, first, second]


def _adam_amsgrad(rows: Any, slots: list[Any], gradient: Any, hyper: Hyper) -> Deltas:
    first, second = _moments(slots, gradient, hyper)
    largest = tf.maximum(slots[2], slots[1] + second)
    step = _corrected_rate(gradient, hyper) * (slots[0] + first) / (tf.sqrt(largest) + hyper["epsilon"])
    return [-step, first, second, largest - slots[2]]


def _adamax(rows: Any, slots: list[Any], gradient: Any, hyper: Hyper) -> Deltas:
    beta_1, step = _float64(hyper, "beta_1", "step")
    rate = hyper["learning_rate"] / tf.cast(1 - beta_1**step, gradient.dtype)
    first = (gradient - slots[0]) * (1 - hyper["beta_1"])
    norm = tf.maximum(hyper["beta_2"] * slots[1], tf.abs(gradient))
    return [-rate * (slots[0] + first) / (norm + hyper["epsilon"]), first, norm - slots[1]]


def _nadam(rows: Any, slots: list[Any], gradient: Any, hyper: Hyper) -> Deltas:
    beta_1, beta_2, step = _float64(hyper, "beta_1", "beta_2", "step")
    decay = tf.constant(_NADAM_DECAY, tf.float64)
    now, following = (beta_1 * (1 - 0.5 * decay**at) for at in (step, step + 1))
    # Of the momenta of all steps. Keras keeps it in a variable; workers could not add that up.
    of_decays = tf.gather(_NADAM_PRODUCTS, tf.cast(tf.minimum(step, len(_NADAM_PRODUCTS)), tf.int32) - 1)
    product = beta_1**step * of_decays
    first, second = _moments(slots, gradient, hyper)
    of_momentum, of_gradient, correction = (
        tf.cast(factor, gradient.dtype)
        for factor in (following / (1 - product * following), (1 - now) / (1 - product), 1 - beta_2**step)
    )
    ahead = of_momentum * (slots[0] + first) + of_gradient * gradient
    under = tf.sqrt((slots[1] + second) / correction) + hyper["epsilon"]
    return [-hyper["learning_rate"] * ahead / under, first, second]


def _lion(rows: Any, slots: list[Any], gradient: Any, hyper: Hyper) -> Deltas:
    way = hyper["beta_1"] * slots[0] + (1 - hyper["beta_1"]) * gradient
    return [-hyper["learning_rate"] * tf.sign(way), (gradient - slots[0]) * (1 - hyper["beta_2"])]


def _adadelta(rows: Any, slots: list[Any], gradient: Any, hyper: Hyper) -> Deltas:
    squared = (tf.square(gradient) - slots[0]) * (1 - hyper["rho"])
    step = tf.sqrt(slots[1] + hyper["epsilon"]) * gradient / tf.sqrt(slots[0] + squared + hyper["epsilon"])
    return [-hyper["learning_rate"] * step, squared, (tf.square(step) - slots[1]) * (1 - hyper["rho"])]


def _rmsprop(rows: Any, slots: list[Any], gradient: Any, hyper: Hyper) -> Deltas:
    velocity = (tf.square(gradient) - slots[0]) * (1 - hyper["rho"])
    return [-hyper["learning_rate"] * gradient / tf.sqrt(slots[0] + velocity + hyper["epsilon"]), velocity]


def _rmsprop_centered(rows: Any, slots: list[Any], gradient: Any, hyper: Hyper) -> Deltas:
    velocity = (tf.square(gradient) - slots[0]) * (1 - hyper["rho"])
    average = (gradient - slots[1]) * (1 - hyper["rho"])
    under_root = slots[0] + velocity - tf.square(slots[1] + average) + hyper["epsilon"]
    return [-hyper["learning_rate"] * gradient / tf.sqrt(under_root), velocity, average]


def _rmsprop_momentum(rows: Any, slots: list[Any], gradient: Any, hyper: Hyper) -> Deltas:
    step, velocity = _rmsprop(rows, [slots[0]], gradient, hyper)
    moved = hyper["momentum"] * slots[1] - step
    return [-moved, velocity, moved - slots[1]]


def _rmsprop_momentum_centered(rows: Any, slots: list[Any], gradient: Any, hyper: Hyper) -> Deltas:
    step, velocity, average = _rmsprop_centered(rows, [slots[0], slots[2]], gradient, hyper)
    moved = hyper["momentum"] * slots[1] - step
    return [-moved, velocity, moved - slots[1], average]


def _ftrl(rows: Any, slots: list[Any], gradient: Any, hyper: Hyper) -> Deltas:
    rate, power, l1 = hyper["learning_rate"], -hyper["learning_rate_power"], hyper["l1"]
    accumulator = slots[0] + tf.square(gradient)
    shrunk = gradient + 2 * hyper["l2_shrinkage"] * rows
    linear = shrunk - (accumulator**power - slots[0] ** power) / rate * rows
    moved = slots[1] + linear
    quadratic = accumulator**power / rate + 2 * (hyper["l2"] + hyper["beta"] / (2 * rate))
    return [(tf.clip_by_value(moved, -l1, l1) - moved) / quadratic - rows, tf.square(gradient), linear]


_RMSPROP = ("learning_rate", "rho", "epsilon")
_ADAM = ("learning_rate", "beta_1", "beta_2", "epsilon", "step")
_FTRL = ("learning_rate", "learning_rate_power", "l1", "l2", "l2_shrinkage", "beta")
_CENTERED = ("velocity", "momentum", "average_gradient")

ROW_RULES: Mapping[str, RowRule] = {
    rule.name: rule
    for rule in (
        RowRule("sgd", (), ("learning_rate",), _sgd),
        RowRule("momentum", ("momentum",), ("learning_rate", "momentum", "nesterov"), _momentum),
        RowRule("adagrad", ("accumulator",), ("learning_rate", "epsilon"), _adagrad),
        RowRule("adam", ("momentum", "velocity"), _ADAM, _adam),
        RowRule("adam_amsgrad", ("momentum", "velocity", "velocity_hat"), _ADAM, _adam_amsgrad),
        RowRule("adamax", ("momentum", "norm"), _ADAM, _adamax),
        RowRule("nadam", ("momentum", "velocity"), _ADAM, _nadam),
        RowRule("lion", ("momentum",), ("learning_rate", "beta_1", "beta_2"), _lion),
        RowRule("adadelta", ("accumulated_grad", "accumulated_delta"), _RMSPROP, _adadelta),
        RowRule("rmsprop", ("velocity",), _RMSPROP, _rmsprop),
        RowRule("rmsprop_momentum", ("velocity", "momentum"), (*_RMSPROP, "momentum"), _rmsprop_momentum),
        RowRule("rmsprop_centered", ("velocity", "average_gradient"), _RMSPROP, _rmsprop_centered),
        RowRule("rmsprop_momentum_centered", _CENTERED, (*_RMSPROP, "momentum"), _rmsprop_momentum_centered),
        RowRule("ftrl", ("accumulator", "linear"), _FTRL, _ftrl),
    )
}
"""Every rule by its name."""
