"""Adapts Keras optimizers to row-wise rules, by the declarations in `tfps.ops.rules`."""

import dataclasses
import importlib
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tfps import step
from tfps.embedding.local_table import find_stand_in
from tfps.embedding.merged import MergedGradient
from tfps.embedding.push import RowUpdate
from tfps.embedding.table import Table
from tfps.embedding.whole import is_used_so_far
from tfps.errors import UnsupportedError
from tfps.keras.multi_optimizer import is_multi, parts_of, unscaled
from tfps.ops.row_rules import ROW_RULES, RowRule
from tfps.ops.rules.declaration import Measure


def _rules_by_class() -> dict[type, tuple[RowRule, ...]]:
    """Returns the rules of each optimizer class. Classes that this version of Keras lacks are left out."""
    rules: dict[type, tuple[RowRule, ...]] = {}
    for rule in ROW_RULES.values():
        # A path is, for example, "keras.optimizers.Adagrad".
        for path in rule.keras:
            module, _, name = path.rpartition(".")
            kind = getattr(importlib.import_module(module), name, None)
            if kind is not None:
                rules[kind] = (*rules.get(kind, ()), rule)
    return rules


_RULES = _rules_by_class()
KINDS = tuple(_RULES)
"""The optimizer classes with a row-wise form."""


def valid_names(needs_sums: bool = False) -> str:
    """Lists the optimizers with a row-wise form, for messages.

    Args:
        needs_sums: whether to list only optimizers whose row deltas can be added up, which GEO needs.
    """
    kinds = [kind for kind, rules in _RULES.items() if not needs_sums or all(rule.adds_up for rule in rules)]
    return ", ".join(sorted(kind.__name__ for kind in kinds))


def declared_rule(optimizer: keras.Optimizer) -> RowRule | None:
    """Returns the rule declared for an optimizer's class, or for its nearest base class that has one.

    A class that overrides `update_step` is included: it still has the slots and decays of its base.
    """
    kind = next((kind for kind in type(optimizer).__mro__ if kind in _RULES), None)
    if kind is None:
        return None
    # The rule with the most options wins. For example both "rmsprop" and "rmsprop_momentum" match
    # RMSprop(momentum=0.9), and the second one names more of its options.
    matching = [rule for rule in _RULES[kind] if all(getattr(optimizer, option, None) for option in rule.options)]
    return max(matching, key=lambda rule: len(rule.options))


def row_rule(optimizer: keras.Optimizer) -> RowRule | None:
    """Returns the rule that updates rows as the optimizer does; None if it has no such rule."""
    # A subclass with its own `update_step` could do anything, so the rule of its base does not apply.
    kind = next((kind for kind in type(optimizer).__mro__ if kind in _RULES), None)
    unchanged = getattr(type(optimizer), "update_step", None) is getattr(kind, "update_step", None)
    return declared_rule(optimizer) if unchanged else None


def check(optimizer: keras.Optimizer, options: Sequence[str] = ("use_ema", "gradient_accumulation_steps")) -> None:
    """Refuses an optimizer that cannot update single rows.

    Args:
        optimizer: a Keras optimizer.
        options: the names of its options that must not be set.

    Raises:
        UnsupportedError: the optimizer has no row-wise form. The message lists the optimizers that have one.
    """
    optimizer = unscaled(optimizer)
    if is_multi(optimizer):
        # Until the model is built nobody knows which parts update tables. Those parts are checked then.
        return
    if row_rule(optimizer) is None:
        raise UnsupportedError(
            "`optimizer` must have a row-wise form for models with tables. "
            f"Received: {type(optimizer).__name__}. Valid: {valid_names()}."
        )
    for name in options:
        if getattr(optimizer, name, None):
            raise UnsupportedError(
                f"`{name}` of {type(optimizer).__name__} would update every row of a table in every step. "
                f"Received: {getattr(optimizer, name)!r}. Valid: none, for models with tables."
            )


def check_repeats(optimizer: keras.Optimizer, table: Table) -> None:
    """Refuses an optimizer for a table that keeps the gradients of repeated ids apart, if its rule needs their sum.

    Raises:
        UnsupportedError: the rule is not defined for repeated ids.
    """
    rule = row_rule(optimizer)
    if table.keeps_repeats and rule is not None and not rule.repeats:
        raise UnsupportedError(
            f'`repeated_ids` of the strategy must be "sum" for {type(optimizer).__name__}('
            f"{', '.join(f'{option}=' for option in rule.options)}): it takes the root of a negative number where ids "
            f'repeat. Received: "each", for table {table.name!r}.'
        )


def check_rounding(optimizer: keras.Optimizer, table: Table) -> None:
    """Refuses an optimizer for a table whose slots are kept in bfloat16, if its rule needs them exactly.

    Raises:
        UnsupportedError: the rule is not defined for rounded slots.
    """
    rule = row_rule(optimizer)
    if table.placement.spec.slots_dtype == "bfloat16" and rule is not None and not rule.rounds:
        raise UnsupportedError(
            f'`slots_dtype` of the strategy must be "float32" for {type(optimizer).__name__}('
            f"{', '.join(f'{option}=' for option in rule.options)}): it takes the root of a negative number where "
            f'slots are rounded. Received: "bfloat16", for table {table.name!r}.'
        )


def measure_for(optimizer: keras.Optimizer, table: Table) -> Measure | None:
    """Returns the measure that is summed beside the gradients of a repeated id; None if its gradients are summed first.

    As in Keras in one process: if a part of the gradient of a table is dense, Keras sums all of it by id.

    Raises:
        UnsupportedError: the rule is not defined for repeated ids.
    """
    rule = row_rule(optimizer)
    # Keras's clip by the global norm returns a dense tensor.
    if rule is None or optimizer.global_clipnorm or not keeps_repeats(table):
        return None
    check_repeats(optimizer, table)
    return rule.measure


def contributed_measure(optimizer: keras.Optimizer, table: Table) -> Measure | None:
    """Returns what a contribution has beside the summed gradients of repeated ids, for the rule and for clipping.

    Raises:
        UnsupportedError: the servers could not clip as one process does.
    """
    if not keeps_repeats(table):
        return None
    by_norm = optimizer.clipnorm or optimizer.global_clipnorm
    measure = measure_for(optimizer, table)
    # Keras clips each place, and takes the norm over all places. Servers have sums, and of the places only the measure.
    if optimizer.clipvalue or (by_norm and measure == "magnitude"):
        name = "clipvalue" if optimizer.clipvalue else "clipnorm"
        raise UnsupportedError(
            f'`{name}` of {type(optimizer).__name__} must be None in mode Sync with `repeated_ids="each"`: it needs '
            f"the gradient of each place, and servers have their sums. Received: {getattr(optimizer, name)}. "
            'Valid: repeated_ids="sum".'
        )
    return "square" if by_norm else measure


def keeps_repeats(table: Table) -> bool:
    """Whether this step keeps the gradients of repeated ids of a table apart."""
    if not table.keeps_repeats:
        return False
    current = step.current()
    if current is None:
        return True
    whole = any(one.key == table.key and is_used_so_far(rows) for one, rows in current.whole_reads)
    return table.key not in current.summed and not whole


def check_windows(optimizer: keras.Optimizer) -> None:
    """Refuses an optimizer that GEO cannot train with.

    Raises:
        UnsupportedError: a part has no row-wise form, or its row deltas cannot be added up. The message names the part.
    """
    for part in parts_of(optimizer):
        # The declared rule and not `row_rule`: an overridden `update_step` does not change what its slots mean.
        rule = declared_rule(part)
        if rule is not None and not rule.adds_up:
            kind = type(part).__name__
            raise UnsupportedError(
                f"`optimizer` must have rows that can be added up, for GEO: {kind} computes a row from its slots, and "
                f"the sum of two such rows is not the row of the summed slots. Received: {kind}. "
                f"Valid: {valid_names(needs_sums=True)}."
            )
        # Settings that only tables cannot have are refused once the tables of the model are known.
        check(part, ())


@dataclasses.dataclass(frozen=True)
class BoundRule:
    """The rule of an optimizer, with the values of one step.

    Args:
        rule: the rule.
        values: hyperparameter values by name.
        slots_of: returns the Keras variables of the slots of a variable, in the order of the rule.
    """

    rule: RowRule
    values: dict[str, tf.Tensor | float]
    slots_of: Callable[[keras.Variable | Table], list[keras.Variable]]

    def hyper(self, decay: tf.Tensor | float) -> tf.Tensor:
        """Returns the hyperparameters in the order of the rule, then the decay: float32 [h + 1]."""
        # The op reads them by position: for "adagrad" [learning_rate, epsilon, decay].
        numbers = (*(self.values[name] for name in self.rule.hyperparameters), decay)
        return tf.stack([tf.cast(number, tf.float32) for number in numbers])


def rule_of(optimizer: keras.Optimizer, learning_rate: tf.Tensor) -> BoundRule | None:
    """Binds the rule of a built optimizer to the values of this step; None if it has no rule.

    Args:
        optimizer: a Keras optimizer.
        learning_rate: the learning rate of this step, a scalar tensor.
    """
    rule = row_rule(optimizer)
    if rule is None:
        return None
    # `iterations` counts finished steps, and the t of Adam starts at 1.
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
    """Returns the updates that an optimizer makes to table rows in this step.

    Args:
        optimizer: a built Keras optimizer.
        pairs: (gradient, table) pairs.
        learning_rate: the learning rate of this step, a scalar tensor.

    Raises:
        UnsupportedError: the optimizer has no row-wise form.
    """
    # An optimizer that only a `train_step` applies has not been checked before.
    check(optimizer)
    bound = rule_of(optimizer, learning_rate)
    assert bound is not None
    # Two vectors serve all tables: one with weight decay, and one for tables that are excluded from it.
    plain = bound.hyper(0.0)
    decayed = None if optimizer.weight_decay is None else bound.hyper(optimizer.weight_decay * learning_rate)
    updates = []
    for gradient, table in pairs:
        decays = decayed is not None and optimizer._use_weight_decay(table)
        slots = [find_stand_in(slot._value) for slot in bound.slots_of(table)]
        hyper, measure = decayed if decays else plain, measure_for(optimizer, table)
        updates.append(RowUpdate(find_stand_in(table), slots, gradient, bound.rule, hyper, measure))
    return updates


def slot_names(optimizer: keras.Optimizer) -> tuple[str, ...]:
    """Returns the optimizer attributes that hold its slots, in the order of the rule. Each is a list of variables."""
    rule = row_rule(optimizer)
    return () if rule is None else tuple(slot.attribute for slot in rule.slots)


def slot_of(optimizer: keras.Optimizer, attribute: str, variable: keras.Variable | Table) -> keras.Variable:
    """Returns the Keras variable of one slot of `variable`."""
    return getattr(optimizer, attribute)[optimizer._trainable_variables_indices[optimizer._var_key(variable)]]
