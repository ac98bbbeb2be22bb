"""What a checkpoint has of a Keras model: the variables of its layers, optimizers and metrics, by name."""

from collections.abc import Iterator

import keras

from tfps.embedding.table import Table
from tfps.keras._compat import Variable, metrics_of
from tfps.keras.model_steps import states_of
from tfps.keras.optimizers import optimizers_of
from tfps.keras.row_optimizers import declared_rule, slot_of
from tfps.saving.content import METRICS, Content, DenseValue, TableContent
from tfps.strategy.strategy import ParameterServerStrategy

MODEL, OPTIMIZER = "model", "optimizer"
"""The first part of the names of the other variables."""


def content_of(model: keras.Model, with_metrics: bool = True) -> Content:
    """Returns the variables of a built model; an optimizer that is not built yet is built.

    Args:
        model: a Keras model, of any strategy or none.
        with_metrics: whether the states of metrics belong to it.
    """
    _build_optimizer(model)
    named = _name(model, with_metrics)
    # A tied weight has one name, and a Keras variable is found by what it holds.
    holders = {id(variable._value): name for name, variable in named.items()}
    groups = [TableContent(*zip(*one, strict=True)) for one in _group(model, named, holders)]
    # What a table has beside its rows and slots is no variable of Keras.
    companions = [name for group in groups for name in group.names if name not in named]
    of_tables = {name for group in groups for name in group.names}
    dense: dict[str, DenseValue] = {name: variable for name, variable in named.items() if name not in of_tables}
    return Content([*named, *companions], dense, groups)


def strategy_of(model: keras.Model) -> ParameterServerStrategy | None:
    """Returns the strategy of a model if it has parameter servers."""
    strategy = model._distribute_strategy
    return strategy if isinstance(strategy, ParameterServerStrategy) else None


def device_of(variable: DenseValue) -> str:
    """Returns the device that has the value of a variable; "" where that is not known."""
    return str(getattr(getattr(variable, "_value", None), "device", ""))


def _build_optimizer(model: keras.Model) -> None:
    optimizer, strategy = getattr(model, "optimizer", None), strategy_of(model)
    if optimizer is None or optimizer.built or not model.built:
        return
    if strategy is None:
        optimizer.build(model.trainable_variables)
    else:
        with strategy.scope():
            optimizer.build(model.trainable_variables)


def _name(model: keras.Model, with_metrics: bool) -> dict[str, Variable]:
    """Returns the variables of a model by name."""
    metrics = [variable for metric in metrics_of(model) for variable in metric.variables]
    of_metrics = {id(variable) for variable in metrics}
    optimizers = optimizers_of(model)
    of_layers = [variable for variable in [*model.variables, *states_of(model)] if id(variable) not in of_metrics]
    groups = {
        MODEL: of_layers,
        OPTIMIZER: [variable for optimizer in optimizers for variable in optimizer.variables],
        METRICS: metrics if with_metrics else [],
    }
    named: dict[str, Variable] = {}
    seen: set[int] = set()
    for group, variables in groups.items():
        for variable in variables:
            # Models may share a variable, and so may a model and its metrics.
            if id(variable) in seen or not isinstance(variable, Variable):
                continue
            seen.add(id(variable))
            named[_unique(f"{group}/{variable.path}", named)] = variable
    return named


def _unique(name: str, named: dict[str, Variable]) -> str:
    """Returns the name, with a number if another variable has it."""
    # Keras lets two layers, or two metrics, have one name.
    number, chosen = 1, name
    while chosen in named:
        number += 1
        chosen = f"{name}~{number}"
    return chosen


def _group(
    model: keras.Model, named: dict[str, Variable], holders: dict[int, str]
) -> Iterator[list[tuple[str, Table]]]:
    """Yields the tables of a model, each with the slots that are its own: (name, table) pairs."""
    slots: dict[int, list[Table]] = {}
    tables = {name: variable._value for name, variable in named.items() if isinstance(variable._value, Table)}
    rules = [(one, rule) for one in optimizers_of(model) if one.built and (rule := declared_rule(one)) is not None]
    for table in tables.values():
        for optimizer, rule in rules:
            if optimizer._var_key(table) not in optimizer._trainable_variables_indices:
                continue
            for slot in rule.slots:
                value = slot_of(optimizer, slot.attribute, table)._value
                if isinstance(value, Table):
                    slots.setdefault(id(table), []).append(value)
    in_groups = {id(slot) for found in slots.values() for slot in found}
    for name, table in tables.items():
        if id(table) not in in_groups:
            beside = [(f"{name}/{short}", one) for short, one in table.companions.items()]
            yield [(name, table), *((holders[id(slot)], slot) for slot in slots.get(id(table), ())), *beside]
