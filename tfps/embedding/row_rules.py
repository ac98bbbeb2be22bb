"""Optimizers in their row-wise form: what one gradient row does to its row and slots, and to no other row.

Every rule is the element-wise formula of the Keras optimizer of that name, written as *deltas* that are added to what
the server holds. Adding is atomic there, so of two workers that update one row at once none is lost; for rules that
are not sums (momentum, Adam's averages) the second worker's delta was computed from a row that the first had not yet
changed, as in any asynchronous training.

Rows that a batch does not touch do not move: momenta of absent rows do not decay and Adam is "lazy" (the step count of
its bias correction is the optimizer's, not the row's). Weight decay reaches a row when its batch does.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import tensorflow as tf

Deltas: TypeAlias = list[Any]
Formula: TypeAlias = Callable[[Any, list[Any], Any, Mapping[str, Any]], Deltas]


@dataclasses.dataclass(frozen=True)
class RowRule:
    """One optimizer's row-wise form.

    Args:
        name: of the rule, for example "adagrad".
        slots: names of the variables it keeps beside the table, in order.
        hyperparameters: names of the numbers it takes with every step, in order; all float32 scalars.
        formula: (rows [m, dim], slot rows, gradients [m, dim], hyperparameters by name) -> deltas of the rows and of
            each slot, [m, dim] each.
    """

    name: str
    slots: tuple[str, ...]
    hyperparameters: tuple[str, ...]
    formula: Formula


def _sgd(rows: Any, slots: list[Any], gradient: Any, hyper: Mapping[str, Any]) -> Deltas:
    return [-hyper["learning_rate"] * gradient]


def _momentum(rows: Any, slots: list[Any], gradient: Any, hyper: Mapping[str, Any]) -> Deltas:
    mu, pull = hyper["momentum"], hyper["learning_rate"] * gradient
    moved = mu * slots[0] - pull
    step = tf.where(hyper["nesterov"] > 0, mu * moved - pull, moved)
    return [step, moved - slots[0]]


def _adagrad(rows: Any, slots: list[Any], gradient: Any, hyper: Mapping[str, Any]) -> Deltas:
    squared = tf.square(gradient)
    return [-hyper["learning_rate"] * gradient / tf.sqrt(slots[0] + squared + hyper["epsilon"]), squared]


def _adam(rows: Any, slots: list[Any], gradient: Any, hyper: Mapping[str, Any]) -> Deltas:
    beta_1, beta_2 = hyper["beta_1"], hyper["beta_2"]
    scale = tf.sqrt(1 - beta_2 ** hyper["step"]) / (1 - beta_1 ** hyper["step"])
    first = (gradient - slots[0]) * (1 - beta_1)
    second = (tf.square(gradient) - slots[1]) * (1 - beta_2)
    step = -hyper["learning_rate"] * scale * (slots[0] + first) / (tf.sqrt(slots[1] + second) + hyper["epsilon"])
    return [step, first, second]


def _rmsprop(rows: Any, slots: list[Any], gradient: Any, hyper: Mapping[str, Any]) -> Deltas:
    velocity = (tf.square(gradient) - slots[0]) * (1 - hyper["rho"])
    step = hyper["learning_rate"] * gradient / tf.sqrt(slots[0] + velocity + hyper["epsilon"])
    return [-step, velocity]


def _ftrl(rows: Any, slots: list[Any], gradient: Any, hyper: Mapping[str, Any]) -> Deltas:
    rate, power = hyper["learning_rate"], -hyper["learning_rate_power"]
    l1, l2 = hyper["l1"], hyper["l2"] + hyper["beta"] / (2 * rate)
    accumulator = slots[0] + tf.square(gradient)
    shrunk = gradient + 2 * hyper["l2_shrinkage"] * rows
    linear = shrunk - (accumulator**power - slots[0] ** power) / rate * rows
    moved = slots[1] + linear
    new_rows = (tf.clip_by_value(moved, -l1, l1) - moved) / (accumulator**power / rate + 2 * l2)
    return [new_rows - rows, tf.square(gradient), linear]


_ADAM = ("learning_rate", "beta_1", "beta_2", "epsilon", "step")
_FTRL = ("learning_rate", "learning_rate_power", "l1", "l2", "l2_shrinkage", "beta")

RULES: dict[str, RowRule] = {
    rule.name: rule
    for rule in (
        RowRule("sgd", (), ("learning_rate",), _sgd),
        RowRule("momentum", ("momentum",), ("learning_rate", "momentum", "nesterov"), _momentum),
        RowRule("adagrad", ("accumulator",), ("learning_rate", "epsilon"), _adagrad),
        RowRule("adam", ("momentum", "velocity"), _ADAM, _adam),
        RowRule("rmsprop", ("velocity",), ("learning_rate", "rho", "epsilon"), _rmsprop),
        RowRule("ftrl", ("accumulator", "linear"), _FTRL, _ftrl),
    )
}


def apply_rule(rule: RowRule, variables: list[Any], hyper: Any, gradient: Any, local: Any) -> Any:
    """Updates rows of one shard, on the device of the caller.

    Args:
        rule: the optimizer.
        variables: the shard and its slots, [rows, dim] each.
        hyper: the hyperparameters in the rule's order and last the weight decay (a share of the row, 0 for none), [h + 1].
        gradient: one a row, [m, dim], each row once.
        local: rows of the shard, [m], int64.

    Returns:
        The operation.
    """
    values = dict(zip(rule.hyperparameters, tf.unstack(hyper[:-1], num=len(rule.hyperparameters)), strict=True))
    dtype = variables[0].dtype
    rows = [tf.raw_ops.ResourceGather(resource=v.handle, indices=local, dtype=dtype) for v in variables]
    decayed = rows[0] * (1 - hyper[-1])
    deltas = rule.formula(decayed, rows[1:], gradient, values)
    deltas[0] = deltas[0] + (decayed - rows[0])
    where = local[:, tf.newaxis]
    adds = [
        # Unlike ResourceScatterAdd, which holds a shared lock, this one excludes other writers.
        tf.raw_ops.ResourceScatterNdAdd(ref=v.handle, indices=where, updates=delta, use_locking=True)
        for v, delta in zip(variables, deltas, strict=True)
    ]
    return tf.group(*adds)
