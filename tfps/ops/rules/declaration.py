"""The declaration of an update rule: slots, hyperparameters, formula, and the Keras optimizers that use it.

Each file of this folder declares the rules of one family in a tuple `RULES`; `tfps.ops.row_rules` finds them all. The
update of rows and of dense variables, the adapter of the Keras optimizer, the treatment of moving averages with several
workers, and the table in docs/optimizers.md all follow from the declaration. The C++ side of a rule is in
tfps_ops/core/rules/. Tests check that both sides agree in names, slots, widths, hyperparameters and results.

A batch changes only the rows it uses. Momenta of other rows do not decay, and Adam is "lazy": the step of its bias
correction is the optimizer's, not the row's. Weight decay is applied to a row when a batch uses it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import tensorflow as tf

Hyper: TypeAlias = Mapping[str, tf.Tensor]
"""Hyperparameters by name, float32 scalars."""
Formula: TypeAlias = Callable[[tf.Tensor, Sequence[tf.Tensor], tf.Tensor, tf.Tensor, Hyper], list[tf.Tensor]]
"""Maps (rows, slot rows, gradients, measures, hyperparameters) to deltas; see `RowRule.formula`."""
Measure: TypeAlias = Literal["square", "magnitude"]
"""What a rule takes the size of a gradient from, element by element: its square, or its absolute value."""

_PER_STEP = ("learning_rate", "step")
"""Hyperparameters that change with every step: they come from a schedule and from the count of iterations."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """A variable that an optimizer keeps beside each variable it trains.

    Args:
        name: the slot's name, for example "accumulator"; the same as in C++.
        attribute: the attribute of the Keras optimizer that lists the slots of all variables.
        symbol: the letter for the slot in the formulas of docs/optimizers.md.
        decay: for a moving average, the hyperparameter by which it decays in a step. The steps of several workers are
            then composed, because their sum would overshoot (see `tfps.training.moving_averages`). None for a slot that
            only grows, whose deltas are added.
        mean_in_windows: whether GEO workers average this slot, because it moves every worker that pulls it.
        per_row: whether the slot has one number per row, [rows, 1], instead of one per float. Such slots come last.
    """

    name: str
    attribute: str
    symbol: str
    decay: str | None = None
    mean_in_windows: bool = False
    per_row: bool = False

    def width(self, dim: int) -> int:
        """Returns how many numbers the slot has for a row of `dim` floats."""
        return 1 if self.per_row else dim


@dataclasses.dataclass(frozen=True, eq=False)
class RowRule:
    """The update of a row by one optimizer.

    Args:
        name: the rule's name, for example "adagrad"; the same as in C++.
        hyperparameters: the names of the numbers that come with every update, in order. After them comes the decay,
            the part of a row (weight_decay * learning_rate) that it loses before the update.
        slots: the variables that the optimizer keeps beside the table, in order.
        formula: maps (rows [m, dim], slot rows [m, width] each, gradients [m, dim], measures [m, dim], hyperparameters)
            to what is added to the rows and to each slot. The results are *deltas*, so that a graph can add them
            atomically.
        keras: the Keras optimizers that use this rule, as import paths, such as "keras.optimizers.Adam".
        options: attributes of these optimizers that must be set for this rule. If several rules fit an optimizer, the
            one with the most options is used: RMSprop(momentum=0.9) uses "rmsprop_momentum".
        attributes: the optimizer's attribute for each hyperparameter whose attribute has another name.
        update: the formula for docs/optimizers.md, with `g` for the gradient, `q` for its measure, `w` for the row,
            `rate` for the learning rate, and the symbols of the slots.
        measure: the measure of a gradient that the formula takes; None for a formula that takes none. With
            `repeated_ids="each"`, the gradients of an id that repeats in a batch and their measures are summed apart.
        repeats: whether the formula is defined then. If not, `repeated_ids="each"` refuses the optimizer.
        rounds: whether slots may be rounded. If not, `slots_dtype="bfloat16"` refuses the optimizer.
        adds_up: whether the changes that two workers make to a row can be added. If not, GEO refuses the optimizer.
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
    measure: Measure | None = None
    repeats: bool = True
    rounds: bool = True

    @property
    def slot_names(self) -> tuple[str, ...]:
        """The names of the slots, in order."""
        return tuple(slot.name for slot in self.slots)

    @property
    def elementwise(self) -> bool:
        """Whether each element is updated independently of the others, so that any shape of a variable works."""
        return not any(slot.per_row for slot in self.slots)

    def attribute_of(self, hyperparameter: str) -> str | None:
        """Returns the attribute of a Keras optimizer that holds a hyperparameter, or None if it changes every step."""
        if hyperparameter in _PER_STEP:
            return None
        return self.attributes.get(hyperparameter, hyperparameter)

    def deltas(
        self,
        rows: tf.Tensor,
        slots: Sequence[tf.Tensor],
        gradient: tf.Tensor,
        hyper: tf.Tensor,
        measure: tf.Tensor | None = None,
    ) -> list[tf.Tensor]:
        """Returns what an update adds to the rows and to each slot, including weight decay.

        Args:
            rows: the rows of the table, [m, dim].
            slots: the same rows of each slot, [m, width] each.
            gradient: the gradient of each row, [m, dim].
            hyper: the hyperparameters in order, then the decay, [h + 1].
            measure: the measure of each gradient, [m, dim]; None to compute it from the gradient.
        """
        *numbers, decay = tf.unstack(hyper, num=len(self.hyperparameters) + 1)
        # The formula sees the decayed row, as in Keras, which decays weights before the update.
        decayed = rows - rows * decay
        hypers = dict(zip(self.hyperparameters, numbers, strict=True))
        row_delta, *slot_deltas = self.formula(
            decayed, slots, gradient, measure_of(self.measure, gradient) if measure is None else measure, hypers
        )
        return [row_delta + (decayed - rows), *slot_deltas]


def measure_of(measure: Measure | None, gradient: tf.Tensor) -> tf.Tensor:
    """Returns the measure of gradients, element by element."""
    return tf.abs(gradient) if measure == "magnitude" else tf.square(gradient)


def in_float64(hyper: Hyper, *names: str) -> list[tf.Tensor]:
    """Returns hyperparameters as float64, for powers of decay rates."""
    # In float32, 1 - 0.999 has only about four correct digits.
    return [tf.cast(hyper[name], tf.float64) for name in names]
