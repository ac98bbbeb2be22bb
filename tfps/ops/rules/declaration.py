"""What an optimizer declares: its slots, its numbers, its formula, and the Keras optimizers it stands for.

A file of this folder declares the rules of one family in a tuple `RULES`; `tfps.ops.row_rules` finds them all. From the
declaration follow the update of rows and of dense variables, the adapter of the Keras optimizer, which slots are moving
averages where several workers train, and the table in docs/optimizers.md. The C++ side of a rule is in
tfps_ops/core/rules/; tests hold names, slots, widths, the order of the hyperparameters and the results equal.

Rows that a batch does not touch do not move: momenta of absent rows do not decay, and Adam is "lazy" (the step of its
bias correction is the optimizer's, not the row's). Weight decay reaches a row when its batch does.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import tensorflow as tf

Hyper: TypeAlias = Mapping[str, tf.Tensor]
"""Hyperparameters by name, float32 scalars."""
Formula: TypeAlias = Callable[[tf.Tensor, Sequence[tf.Tensor], tf.Tensor, Hyper], list[tf.Tensor]]

_OF_THE_STEP = ("learning_rate", "step")
"""Hyperparameters that no attribute of an optimizer holds: a schedule and the iterations give them."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """One variable that an optimizer keeps beside each variable it trains.

    Args:
        name: of the slot, for example "accumulator"; the same as in C++.
        attribute: of the Keras optimizer, the list that holds the slots of all variables.
        symbol: the letter that stands for it in the formulas of docs/optimizers.md.
        decay: the hyperparameter by which the slot decays in a step, where it is a moving average. Then workers
            compose their steps, because their sum would overshoot (see `tfps.training.moving_averages`). None for a
            slot that only grows, whose deltas are added.
        mean_in_windows: whether a GEO worker pushes its part of a mean instead, because the slot moves every worker
            that pulls it.
        per_row: whether the slot has one number a row, [rows, 1], in place of one a float. Such slots come last.
    """

    name: str
    attribute: str
    symbol: str
    decay: str | None = None
    mean_in_windows: bool = False
    per_row: bool = False

    def width(self, dim: int) -> int:
        """Numbers that the slot has for a row of `dim` floats."""
        return 1 if self.per_row else dim


@dataclasses.dataclass(frozen=True, eq=False)
class RowRule:
    """One optimizer's update of one row.

    Args:
        name: of the rule, for example "adagrad"; the same as in C++.
        hyperparameters: names of the numbers that come with every update, in order. After them comes the decay, the
            part of a row (weight_decay * learning_rate) that it loses before the update.
        slots: the variables that it keeps beside the table, in order.
        formula: (rows [m, dim], slot rows [m, width] each, gradients [m, dim], hyperparameters) -> what to add to the
            rows and to each slot. Kept as *deltas*, so that the graph can add them atomically.
        keras: the optimizers it stands for, as import paths, such as "keras.optimizers.Adam".
        options: attributes of these optimizers that must be set for this rule. Of the rules of an optimizer the one
            with the most options that are all set is used: RMSprop(momentum=0.9) has "rmsprop_momentum".
        attributes: the attribute of the optimizer that holds a hyperparameter, where it has another name.
        update: what one gradient row does, for docs/optimizers.md: `g` the gradient, `w` the row, `rate` the learning
            rate, and the slots by their symbols.
        adds_up: whether rows that two workers have moved can be added; if not, GEO refuses the optimizer.
    """

    name: str
    hyperparameters: tuple[str, ...]
    slots: tuple[Slot, ...]
    formula: Formula
    keras: tuple[str, ...]
    update: str
    options: tuple[str, ...] = ()
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    adds_up: bool = True

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the slots, in order."""
        return tuple(slot.name for slot in self.slots)

    @property
    def elementwise(self) -> bool:
        """Whether no element of a row depends on another one, so that the shape of a variable does not matter."""
        return not any(slot.per_row for slot in self.slots)

    def attribute_of(self, hyperparameter: str) -> str | None:
        """The attribute of a Keras optimizer that holds a hyperparameter; None for what the step gives."""
        if hyperparameter in _OF_THE_STEP:
            return None
        return self.attributes.get(hyperparameter, hyperparameter)

    def deltas(
        self, rows: tf.Tensor, slots: Sequence[tf.Tensor], gradient: tf.Tensor, hyper: tf.Tensor
    ) -> list[tf.Tensor]:
        """What an update adds to rows and slots, weight decay included.

        Args:
            rows: [m, dim].
            slots: [m, width] each.
            gradient: [m, dim].
            hyper: the hyperparameters in order and last the decay, [h + 1].
        """
        *numbers, decay = tf.unstack(hyper, num=len(self.hyperparameters) + 1)
        decayed = rows - rows * decay
        moved, *of_slots = self.formula(decayed, slots, gradient, dict(zip(self.hyperparameters, numbers, strict=True)))
        return [moved + (decayed - rows), *of_slots]


def in_float64(hyper: Hyper, *names: str) -> list[tf.Tensor]:
    """Hyperparameters for powers of decays: 1 - 0.999 has few digits left as a float32."""
    return [tf.cast(hyper[name], tf.float64) for name in names]
