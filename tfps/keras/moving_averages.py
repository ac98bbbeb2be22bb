"""Which variables are moving averages, and what counts their steps.

`tfps.training.moving_averages` has what that means where several workers push.
"""

from typing import Any

from tfps.keras._compat import keras
from tfps.keras.optimizers import of_model
from tfps.keras.variables import stored_values
from tfps.strategy.variables import Average, DenseVariable

_ADAMS = {"_momentums": "beta_1", "_velocities": "beta_2", "_velocity_hats": "beta_2", "momentums": "momentum"}
"""Slots and the attributes that hold their decays: of Adam, its kin, and SGD."""
_DECAYS = {
    keras.optimizers.RMSprop: {"_velocities": "rho", "_momentums": "momentum", "_average_gradients": "rho"},
    keras.optimizers.Adadelta: {"_accumulated_grads": "rho", "_accumulated_delta_vars": "rho"},
    keras.optimizers.Adamax: {"_m": "beta_1", "_u": "beta_2"},
    keras.optimizers.Lion: {"_momentums": "beta_2"},
}


def note_averages(model: Any) -> None:
    """Tells the dense variables of a built model, and of the optimizers that it applies, which are averages."""
    for optimizer in of_model(model):
        note_slots(optimizer)
    if model.optimizer is None:
        return
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            for variable in (layer.moving_mean, layer.moving_variance):
                # A frozen one does not move: what it keeps of itself would be rounded, again and again.
                _note(variable, layer.momentum if layer.trainable else None, model.optimizer)


def note_slots(optimizer: Any) -> None:
    """Tells the slots of a built optimizer which are averages."""
    noted: dict[str, float | None] = dict.fromkeys(getattr(optimizer, "means", ()))
    for slots, decay in (noted | decays(optimizer)).items():
        for variable in getattr(optimizer, slots, None) or []:
            _note(variable, decay, optimizer)
    product = getattr(optimizer, "_u_product", None)  # of Nadam
    for value in stored_values([] if product is None else [product], DenseVariable):
        value.average = Average(None, value.key)


def decays(optimizer: Any) -> dict[str, float]:
    """The decay of each kind of slot that is an average, by the attribute in which an optimizer keeps it."""
    own = [names for kind, names in _DECAYS.items() if isinstance(optimizer, kind)]
    found = {slots: getattr(optimizer, name, None) for slots, name in (own[0] if own else _ADAMS).items()}
    means = getattr(optimizer, "means", ())  # of its mode
    return {
        slots: float(decay) for slots, decay in found.items() if isinstance(decay, int | float) and slots not in means
    }


def _note(variable: Any, decay: float | None, optimizer: Any) -> None:
    value, counter = getattr(variable, "_value", None), optimizer.iterations._value
    if isinstance(value, DenseVariable) and isinstance(counter, DenseVariable):
        value.average = None if decay is None else Average(decay, counter.key)
