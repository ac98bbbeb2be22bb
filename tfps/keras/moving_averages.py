"""Finds the moving averages among the variables of a model, and the counters of their steps.

`tfps.training.moving_averages` describes how the averages of several workers are merged.
"""

import keras
import tensorflow as tf

from tfps.keras.multi_optimizer import whole_of
from tfps.keras.optimizers import optimizers_of
from tfps.keras.row_optimizers import declared_rule
from tfps.keras.variables import stored_values
from tfps.ops.row_rules import ROW_RULES
from tfps.strategy.variables import Average, DenseVariable

WINDOW_MEANS = tuple(
    sorted({slot.attribute for rule in ROW_RULES.values() for slot in rule.slots if slot.mean_in_windows})
)
"""Attributes that hold slots to be averaged in GEO: each of N workers pushes 1 / N of its delta."""


def mark_averages(model: keras.Model) -> None:
    """Marks the moving averages among the slots of all built optimizers of a model."""
    # Averages that no optimizer declares, such as those of a BatchNormalization, are found by how a step assigns them.
    for optimizer in optimizers_of(model):
        mark_slots(optimizer)


def mark_slots(optimizer: keras.Optimizer) -> None:
    """Marks the moving averages among the slots of a built optimizer."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # The scale is one value of the job: two workers that both halve it must not quarter it.
        own = [getattr(optimizer, name, None) for name in ("step_counter", "dynamic_scale")]
        for value in stored_values([variable for variable in own if variable is not None], DenseVariable):
            value.latest = True
    # Slots that the mode averages over workers lose their mark, in case they were marked before the optimizer got the
    # mode.
    marks: dict[str, float | None] = dict.fromkeys(_means_of(optimizer))
    for attribute, decay in (marks | decays(optimizer)).items():
        for variable in getattr(optimizer, attribute, None) or []:
            _mark(variable, decay, optimizer)
    # Nadam multiplies this variable in every step. As an average without a decay it is merged by its growth factor.
    product = getattr(optimizer, "_u_product", None)
    for value in stored_values([] if product is None else [product], DenseVariable):
        value.average = Average(None, value.key)


def decays(optimizer: keras.Optimizer) -> dict[str, float]:
    """Returns the decay of each kind of slot that is a moving average, by the optimizer attribute that holds it."""
    means, rule = _means_of(optimizer), declared_rule(optimizer)
    by_attribute = {
        slot.attribute: getattr(optimizer, rule.attribute_of(slot.decay) or "", None)
        for slot in (() if rule is None else rule.slots)
        if rule is not None and slot.decay is not None and slot.attribute not in means
    }
    # k steps need decay ** k, so a decay must be a number. A tensor or a schedule cannot be used here.
    return {attribute: float(decay) for attribute, decay in by_attribute.items() if isinstance(decay, int | float)}


def _means_of(optimizer: keras.Optimizer) -> tuple[str, ...]:
    """Returns the attributes of slots that the mode averages over workers."""
    # A part of a MultiOptimizer has no mode; the whole has it.
    return getattr(whole_of(optimizer), "means", ())


def iterations_of(optimizer: keras.Optimizer) -> tf.Variable:
    """Returns the variable that counts the steps of an optimizer."""
    return getattr(optimizer, "_iterations", optimizer.iterations)._value


def _mark(variable: keras.Variable, decay: float | None, optimizer: keras.Optimizer) -> None:
    """Marks a dense variable as an average with this decay; None removes the mark."""
    # `iterations` may be computed from this variable, if gradients are accumulated.
    value, counter = getattr(variable, "_value", None), iterations_of(optimizer)
    if isinstance(value, DenseVariable) and isinstance(counter, DenseVariable):
        value.average = None if decay is None else Average(decay, counter.key)
