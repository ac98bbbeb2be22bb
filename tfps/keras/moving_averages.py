"""Which variables are moving averages, and what counts their steps.

`tfps.training.moving_averages` has what that means where several workers push.
"""

import keras

from tfps.keras.multi_optimizer import whole_of
from tfps.keras.optimizers import of_model
from tfps.keras.row_optimizers import declared_rule
from tfps.keras.variables import stored_values
from tfps.ops.row_rules import ROW_RULES
from tfps.ops.rules.declaration import RowRule
from tfps.strategy.variables import Average, DenseVariable

_USUAL = (ROW_RULES["momentum"], ROW_RULES["adam_amsgrad"])
"""Rules whose slots an optimizer without a rule may have under the same names: Lamb keeps the averages of Adam."""
WINDOW_MEANS = tuple(
    sorted({slot.attribute for rule in ROW_RULES.values() for slot in rule.slots if slot.mean_in_windows})
)
"""Slots of which each worker of GEO pushes its part of a mean, by the attribute that holds them."""


def note_averages(model: keras.Model) -> None:
    """Marks the averages among the dense variables of a built model and of the optimizers that it applies."""
    for optimizer in of_model(model):
        note_slots(optimizer)
    if model.optimizer is None:
        return
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            for variable in (layer.moving_mean, layer.moving_variance):
                # A frozen layer does not move its averages. Composed, they would be rounded again in every step.
                _mark(variable, layer.momentum if layer.trainable else None, model.optimizer)


def note_slots(optimizer: keras.Optimizer) -> None:
    """Marks the averages among the slots of a built optimizer."""
    # A slot that the mode pushes as a mean is no average here, also if it was one before the optimizer got the mode.
    marks: dict[str, float | None] = dict.fromkeys(_means_of(optimizer))
    for attribute, decay in (marks | decays(optimizer)).items():
        for variable in getattr(optimizer, attribute, None) or []:
            _mark(variable, decay, optimizer)
    product = getattr(optimizer, "_u_product", None)  # of Nadam
    for value in stored_values([] if product is None else [product], DenseVariable):
        value.average = Average(None, value.key)


def decays(optimizer: keras.Optimizer) -> dict[str, float]:
    """The decay of each kind of slot that is an average, by the attribute in which an optimizer keeps it."""
    means = _means_of(optimizer)
    found = {
        slot.attribute: getattr(optimizer, rule.attribute_of(slot.decay) or "", None)
        for rule in _rules_like(optimizer)
        for slot in rule.slots
        if slot.decay is not None and slot.attribute not in means
    }
    # A decay that is a tensor or a schedule of the user's own cannot be taken to the power of a number of steps here.
    return {attribute: float(decay) for attribute, decay in found.items() if isinstance(decay, int | float)}


def _rules_like(optimizer: keras.Optimizer) -> tuple[RowRule, ...]:
    """The rule of an optimizer; for one without, rules whose slots it may have."""
    declared = declared_rule(optimizer)
    return _USUAL if declared is None else (declared,)


def _means_of(optimizer: keras.Optimizer) -> tuple[str, ...]:
    """Slots that the mode of an optimizer pushes as means, by attribute; the mode is kept by the whole optimizer."""
    return getattr(whole_of(optimizer), "means", ())


def _mark(variable: keras.Variable, decay: float | None, optimizer: keras.Optimizer) -> None:
    """Says of a dense variable that it is an average with this decay, or that it is none."""
    value, counter = getattr(variable, "_value", None), optimizer.iterations._value
    if isinstance(value, DenseVariable) and isinstance(counter, DenseVariable):
        value.average = None if decay is None else Average(decay, counter.key)
