"""Keras optimizers and their row-wise rules: one adapter, which reads the declarations of `tfps.ops.rules`."""

import dataclasses
import importlib
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tfps.embedding.local_table import find_stand_in
from tfps.embedding.merged import MergedGradient
from tfps.embedding.push import RowUpdate
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.keras.multi_optimizer import is_multi, parts_of
from tfps.ops.row_rules import ROW_RULES, RowRule


def _rules_by_class() -> dict[type, tuple[RowRule, ...]]:
    """The rules that stand for each optimizer class; classes that this version of Keras lacks are left out."""
    found: dict[type, tuple[RowRule, ...]] = {}
    for rule in ROW_RULES.values():
        for path in rule.keras:
            module, _, name = path.rpartition(".")
            kind = getattr(importlib.import_module(module), name, None)
            if kind is not None:
                found[kind] = (*found.get(kind, ()), rule)
    return found


_RULES = _rules_by_class()
KINDS = tuple(_RULES)
"""The optimizer classes with a row-wise form."""


def valid_names(needs_sums: bool = False) -> str:
    """The optimizers with a row-wise form, for messages.

    Args:
        needs_sums: only those whose rows can be added up, as GEO does.
    """
    kinds = [kind for kind, rules in _RULES.items() if not needs_sums or all(rule.adds_up for rule in rules)]
    return ", ".join(sorted(kind.__name__ for kind in kinds))


def declared_rule(optimizer: keras.Optimizer) -> RowRule | None:
    """The rule of an optimizer's class, or of the class it derives from, with the options that are set.

    Of a class that overrides `update_step` the slots and their decays still are those of its base.
    """
    kind = next((kind for kind in type(optimizer).__mro__ if kind in _RULES), None)
    if kind is None:
        return None
    # RMSprop(momentum=0.9): of "rmsprop" and "rmsprop_momentum", whose options are all set, the latter names more.
    fitting = [rule for rule in _RULES[kind] if all(getattr(optimizer, option, None) for option in rule.options)]
    return max(fitting, key=lambda rule: len(rule.options))


def row_rule(optimizer: keras.Optimizer) -> RowRule | None:
    """The rule by which rows are updated as the optimizer would; None for one that updates in a way of its own."""
    kind = next((kind for kind in type(optimizer).__mro__ if kind in _RULES), None)
    unchanged = getattr(type(optimizer), "update_step", None) is getattr(kind, "update_step", None)
    return declared_rule(optimizer) if unchanged else None


def check(optimizer: keras.Optimizer) -> None:
    """Refuses an optimizer that could not update rows on their own.

    Raises:
        UnsupportedError: it has no row-wise form; the message lists those that have.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise UnsupportedError(
            "`optimizer` must be none that scales the loss, which Keras makes of it under the policy 'mixed_float16'. "
            "Received: LossScaleOptimizer. Valid: the policies 'float32' and 'mixed_bfloat16', which need no scaling."
        )
    if is_multi(optimizer):
        # Which parts update tables is known once the model is built; then each of them is checked.
        return
    if row_rule(optimizer) is None:
        raise UnsupportedError(
            "`optimizer` must have a row-wise form for models with tables. "
            f"Received: {type(optimizer).__name__}. Valid: {valid_names()}."
        )
    for name in ("use_ema", "gradient_accumulation_steps"):
        if getattr(optimizer, name, None):
            raise UnsupportedError(
                f"`{name}` of {type(optimizer).__name__} would touch every row of a table in every step. "
                f"Received: {getattr(optimizer, name)!r}. Valid: none, for models with tables."
            )


def check_windows(optimizer: keras.Optimizer) -> None:
    """Refuses an optimizer that GEO cannot train with: every part must have a row-wise form whose rows add up.

    Raises:
        UnsupportedError: naming the part.
    """
    for part in parts_of(optimizer):
        rule = declared_rule(part)
        if rule is not None and not rule.adds_up:
            kind = type(part).__name__
            raise UnsupportedError(
                f"`optimizer` must be one whose rows can be added up, for GEO: a row of {kind} is a function of its "
                f"slots, and the sum of two such rows is not the row of the summed slots. Received: {kind}. "
                f"Valid: {valid_names(needs_sums=True)}."
            )
        check(part)


@dataclasses.dataclass(frozen=True)
class BoundRule:
    """An optimizer's rule in one step.

    Args:
        rule: the rule.
        values: hyperparameters by name.
        slots_of: gives the Keras variables of the slots of a variable, in the order of the rule.
    """

    rule: RowRule
    values: dict[str, tf.Tensor | float]
    slots_of: Callable[[keras.Variable | Table], list[keras.Variable]]

    def hyper(self, decay: tf.Tensor | float) -> tf.Tensor:
        """The hyperparameters in the rule's order and last the decay, float32 [h + 1]."""
        numbers = (*(self.values[name] for name in self.rule.hyperparameters), decay)
        return tf.stack([tf.cast(number, tf.float32) for number in numbers])


def rule_of(optimizer: keras.Optimizer, learning_rate: tf.Tensor) -> BoundRule | None:
    """The rule of a built optimizer; None for one that updates in a way of its own.

    Args:
        optimizer: of Keras.
        learning_rate: of this step, a scalar tensor.
    """
    rule = row_rule(optimizer)
    if rule is None:
        return None
    values = {"learning_rate": learning_rate, "step": tf.cast(optimizer.iterations + 1, tf.float32)}
    for name in rule.hyperparameters:
        attribute = rule.attribute_of(name)
        if attribute is not None:
            values[name] = getattr(optimizer, attribute)

    def slots_of(variable: keras.Variable | Table) -> list[keras.Variable]:
        return [slot_of(optimizer, slot.attribute, variable) for slot in rule.slots]

    return BoundRule(rule, values, slots_of)


def row_updates(
    optimizer: keras.Optimizer,
    pairs: Sequence[tuple[tf.IndexedSlices | MergedGradient, Table]],
    learning_rate: tf.Tensor,
) -> list[RowUpdate]:
    """What an optimizer does to the rows of tables in this step.

    Args:
        optimizer: of Keras, built.
        pairs: (gradient, table) each.
        learning_rate: of this step, a scalar tensor.

    Raises:
        UnsupportedError: it has no row-wise form.
    """
    check(optimizer)  # one that a model applies beside its own is seen here first
    bound = rule_of(optimizer, learning_rate)
    assert bound is not None
    plain = bound.hyper(0.0)
    decayed = None if optimizer.weight_decay is None else bound.hyper(optimizer.weight_decay * learning_rate)
    updates = []
    for gradient, table in pairs:
        decays = decayed is not None and optimizer._use_weight_decay(table)
        slots = [find_stand_in(slot._value) for slot in bound.slots_of(table)]
        updates.append(RowUpdate(find_stand_in(table), slots, gradient, bound.rule, decayed if decays else plain))
    return updates


def slot_names(optimizer: keras.Optimizer) -> tuple[str, ...]:
    """The attributes in which an optimizer with a row-wise form keeps its slots, a list each, in the rule's order."""
    rule = row_rule(optimizer)
    return () if rule is None else tuple(slot.attribute for slot in rule.slots)


def slot_of(optimizer: keras.Optimizer, attribute: str, variable: keras.Variable | Table) -> keras.Variable:
    """The Keras variable of one slot of a variable."""
    return getattr(optimizer, attribute)[optimizer._trainable_variables_indices[optimizer._var_key(variable)]]
