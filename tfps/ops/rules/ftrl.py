"""Follow the regularized leader: a row is a function of its slots. Source: McMahan et al. 2013."""

from collections.abc import Sequence

import tensorflow as tf

from tfps.ops.rules.declaration import Hyper, RowRule, Slot


def _ftrl(
    rows: tf.Tensor, slots: Sequence[tf.Tensor], gradient: tf.Tensor, measure: tf.Tensor, hyper: Hyper
) -> list[tf.Tensor]:
    # In the formula of `update` below, `accumulator` is b, `power` is p, and slots[1] is z.
    rate, power, l1 = hyper["learning_rate"], -hyper["learning_rate_power"], hyper["l1"]
    accumulator = slots[0] + measure
    shrunk = gradient + 2 * hyper["l2_shrinkage"] * rows
    linear = shrunk - (accumulator**power - slots[0] ** power) / rate * rows
    moved = slots[1] + linear
    # Keras adds beta / (2 * rate) to l2 and doubles the sum.
    quadratic = accumulator**power / rate + 2 * (hyper["l2"] + hyper["beta"] / (2 * rate))
    return [(tf.clip_by_value(moved, -l1, l1) - moved) / quadratic - rows, measure, linear]


RULES = (
    RowRule(
        name="ftrl",
        measure="square",
        hyperparameters=("learning_rate", "learning_rate_power", "l1", "l2", "l2_shrinkage", "beta"),
        slots=(Slot("accumulator", "_accumulators", "a"), Slot("linear", "_linears", "z")),
        formula=_ftrl,
        keras=("keras.optimizers.Ftrl",),
        attributes={
            "l1": "l1_regularization_strength",
            "l2": "l2_regularization_strength",
            "l2_shrinkage": "l2_shrinkage_regularization_strength",
        },
        # The row is computed anew from the slots, so the sum of two workers' changes is not a row of any state.
        adds_up=False,
        update="`b = a + q`; `z += g + 2 * l2_shrinkage * w - (b**p - a**p) / rate * w`, where "
        "`p = -learning_rate_power`; `w = (clip(z, -l1, l1) - z) / (b**p / rate + 2 * l2 + beta / rate)`; `a = b`",
    ),
)
