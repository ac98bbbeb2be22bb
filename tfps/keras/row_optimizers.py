"""Keras optimizers and their row-wise rules: one adapter an optimizer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfps.embedding.local_table import stand_in
from tfps.embedding.push import RowUpdate
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.keras._compat import keras
from tfps.ops.row_rules import ROW_RULES, RowRule

Adapter = Callable[[Any], tuple[str, tuple[str, ...], dict[str, Any]]]


def _sgd(optimizer: Any) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    if not optimizer.momentum:
        return "sgd", (), {}
    return "momentum", ("momentums",), {"momentum": optimizer.momentum, "nesterov": float(optimizer.nesterov)}


def _adagrad(optimizer: Any) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    return "adagrad", ("_accumulators",), {"epsilon": optimizer.epsilon}


def _adam(optimizer: Any) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    if optimizer.amsgrad:
        return "adam_amsgrad", ("_momentums", "_velocities", "_velocity_hats"), _betas(optimizer)
    return "adam", ("_momentums", "_velocities"), _betas(optimizer)


def _adamax(optimizer: Any) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    return "adamax", ("_m", "_u"), _betas(optimizer)


def _nadam(optimizer: Any) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    return "nadam", ("_momentums", "_velocities"), _betas(optimizer)


def _lion(optimizer: Any) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    return "lion", ("_momentums",), {"beta_1": optimizer.beta_1, "beta_2": optimizer.beta_2}


def _adadelta(optimizer: Any) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    slots = "_accumulated_grads", "_accumulated_delta_vars"
    return "adadelta", slots, {"rho": optimizer.rho, "epsilon": optimizer.epsilon}


def _betas(optimizer: Any) -> dict[str, Any]:
    return {"beta_1": optimizer.beta_1, "beta_2": optimizer.beta_2, "epsilon": optimizer.epsilon}


def _rmsprop(optimizer: Any) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    name, slots, hyper = "rmsprop", ["_velocities"], {"rho": optimizer.rho, "epsilon": optimizer.epsilon}
    if optimizer.momentum:
        name, slots, hyper = f"{name}_momentum", [*slots, "_momentums"], {**hyper, "momentum": optimizer.momentum}
    if optimizer.centered:
        name, slots = f"{name}_centered", [*slots, "_average_gradients"]
    return name, tuple(slots), hyper


def _ftrl(optimizer: Any) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    hyper = {
        "learning_rate_power": optimizer.learning_rate_power,
        "l1": optimizer.l1_regularization_strength,
        "l2": optimizer.l2_regularization_strength,
        "l2_shrinkage": optimizer.l2_shrinkage_regularization_strength,
        "beta": optimizer.beta,
    }
    return "ftrl", ("_accumulators", "_linears"), hyper


_ADAPTERS: dict[type, Adapter] = {
    keras.optimizers.SGD: _sgd,
    keras.optimizers.Adagrad: _adagrad,
    keras.optimizers.Adam: _adam,
    keras.optimizers.AdamW: _adam,
    keras.optimizers.Adamax: _adamax,
    keras.optimizers.Nadam: _nadam,
    keras.optimizers.Lion: _lion,
    keras.optimizers.Adadelta: _adadelta,
    keras.optimizers.RMSprop: _rmsprop,
    keras.optimizers.Ftrl: _ftrl,
}
KINDS = tuple(_ADAPTERS)
"""The optimizers with a row-wise form."""


def names() -> set[str]:
    """Of the optimizers with a row-wise form, for messages."""
    return {kind.__name__ for kind in KINDS}


def _adapter_of(optimizer: Any) -> Adapter | None:
    """The adapter of an optimizer, or of the one it derives from and whose update it keeps."""
    for kind in type(optimizer).__mro__:
        if kind in _ADAPTERS:
            kept = getattr(type(optimizer), "update_step", None) is getattr(kind, "update_step", None)
            return _ADAPTERS[kind] if kept else None
    return None


def check(optimizer: Any) -> None:
    """Refuses an optimizer that could not update rows on their own.

    Raises:
        UnsupportedError: it has no row-wise form; the message lists those that have.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise UnsupportedError(
            "`optimizer` must be none that scales the loss, which Keras makes of it under the policy 'mixed_float16'. "
            "Received: LossScaleOptimizer. Valid: the policies 'float32' and 'mixed_bfloat16', which need no scaling."
        )
    adapter = _adapter_of(optimizer)
    if adapter is None:
        valid = ", ".join(sorted(names()))
        raise UnsupportedError(
            "`optimizer` must have a row-wise form for models with tables. "
            f"Received: {type(optimizer).__name__}. Valid: {valid}."
        )
    adapter(optimizer)
    for name in ("use_ema", "gradient_accumulation_steps"):
        if getattr(optimizer, name, None):
            raise UnsupportedError(
                f"`{name}` of {type(optimizer).__name__} would touch every row of a table in every step. "
                f"Received: {getattr(optimizer, name)!r}. Valid: none, for models with tables."
            )


def row_updates(optimizer: Any, pairs: list[tuple[Any, Table]], learning_rate: Any) -> list[RowUpdate]:
    """What an optimizer does to the rows of tables in this step.

    Args:
        optimizer: of Keras, built.
        pairs: (IndexedSlices, table) each.
        learning_rate: of this step, a scalar tensor.

    Raises:
        UnsupportedError: it has no row-wise form.
    """
    check(optimizer)  # one that a model applies beside its own is seen here first
    found = rule_of(optimizer, learning_rate)
    assert found is not None
    plain = found.hyper(0.0)
    decayed = None if optimizer.weight_decay is None else found.hyper(optimizer.weight_decay * learning_rate)
    updates = []
    for gradient, table in pairs:
        decays = decayed is not None and optimizer._use_weight_decay(table)
        slots = [stand_in(slot._value) for slot in found.slots_of(table)]
        updates.append(RowUpdate(stand_in(table), slots, gradient, found.rule, decayed if decays else plain))
    return updates


@dataclasses.dataclass(frozen=True)
class BoundRule:
    """An optimizer's rule in one step.

    Args:
        rule: the rule.
        values: hyperparameters by name.
        slots_of: gives the Keras variables of the slots of a variable, in the order of the rule.
    """

    rule: RowRule
    values: dict[str, Any]
    slots_of: Callable[[Any], list[Any]]

    def hyper(self, decay: Any) -> Any:
        """The hyperparameters in the rule's order and last the decay, float32 [h + 1]."""
        numbers = (*(self.values[name] for name in self.rule.hyperparameters), decay)
        return tf.stack([tf.cast(number, tf.float32) for number in numbers])


def rule_of(optimizer: Any, learning_rate: Any) -> BoundRule | None:
    """The rule of a built optimizer; None for one that updates in a way of its own.

    Args:
        optimizer: of Keras.
        learning_rate: of this step, a scalar tensor.
    """
    adapter = _adapter_of(optimizer)
    if adapter is None:
        return None
    name, slots, hyper = adapter(optimizer)
    values = {"learning_rate": learning_rate, "step": tf.cast(optimizer.iterations + 1, tf.float32), **hyper}

    def slots_of(variable: Any) -> list[Any]:
        return [slot_of(optimizer, slot, variable) for slot in slots]

    return BoundRule(ROW_RULES[name], values, slots_of)


def slot_names(optimizer: Any) -> tuple[str, ...]:
    """The attributes in which an optimizer with a row-wise form keeps its slots, a list each, in the rule's order."""
    adapter = _adapter_of(optimizer)
    return () if adapter is None else adapter(optimizer)[1]


def slot_of(optimizer: Any, name: str, variable: Any) -> Any:
    """The Keras variable of one slot of a variable."""
    return getattr(optimizer, name)[optimizer._trainable_variables_indices[optimizer._var_key(variable)]]
