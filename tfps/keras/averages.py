"""Which variables are moving averages, and how much of their change a worker may push.

Workers push sums of deltas. For a moving average with decay d a closure of k steps moves it by the share 1 - d**k
towards the worker's own mean; if W workers did so at once from one value it would move by W times that, and overshoot
where W * (1 - d**k) > 1. Each then pushes 1 / (W * (1 - d**k)) of its delta, so that together they reach the mean. One
worker pushes all of it.
"""

from typing import Any

from tfps.keras._compat import Variable, keras
from tfps.keras.optimizers import of_model
from tfps.keras.variables import held
from tfps.strategy.variables import DenseVariable

_ADAMS = {"_momentums": "beta_1", "_velocities": "beta_2", "_velocity_hats": "beta_2", "momentums": "momentum"}
"""Slots and the attributes that hold their decays: of Adam, its kin, and SGD."""
_DECAYS = {
    keras.optimizers.RMSprop: {"_velocities": "rho", "_momentums": "momentum", "_average_gradients": "rho"},
    keras.optimizers.Adadelta: {"_accumulated_grads": "rho", "_accumulated_delta_vars": "rho"},
    keras.optimizers.Adamax: {"_m": "beta_1", "_u": "beta_2"},
    keras.optimizers.Lion: {"_momentums": "beta_2"},
}


def push_scales(model: Any, steps: int, num_workers: int) -> dict[Any, float]:
    """The share of its delta that each moving average pushes, by variable key; those that push all are left out.

    Args:
        model: a built Keras model.
        steps: of a closure.
        num_workers: that push at once.
    """
    scales = {}
    optimizers = of_model(model)
    averages = [average for optimizer in optimizers for average in _of_optimizer(optimizer)]
    for variable, decay in [*_of_layers(model), *averages]:
        overshoot = num_workers * (1.0 - decay**steps)
        if isinstance(variable._value, DenseVariable) and overshoot > 1.0:
            scales[variable._value.key] = 1.0 / overshoot
    products = [optimizer._u_product for optimizer in optimizers if hasattr(optimizer, "_u_product")]
    for product in held(products, DenseVariable):  # of Nadam, whose steps multiply it: no sum either
        scales[product.key] = 1.0 / num_workers
    return scales


def _of_layers(model: Any) -> list[tuple[Any, float]]:
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    return [(variable, norm.momentum) for norm in norms for variable in (norm.moving_mean, norm.moving_variance)]


def _of_optimizer(optimizer: Any) -> list[tuple[Any, float]]:
    own = [decays for kind, decays in _DECAYS.items() if isinstance(optimizer, kind)]
    return [
        (variable, float(getattr(optimizer, decay)))
        for slots, decay in (own[0] if own else _ADAMS).items()
        if isinstance(getattr(optimizer, decay, None), int | float)
        for variable in getattr(optimizer, slots, None) or []
        if isinstance(variable, Variable)
    ]
