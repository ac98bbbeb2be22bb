"""Parameter servers for TensorFlow 2 and Keras 3: a distribution strategy for unchanged Keras code."""

import importlib
from typing import TYPE_CHECKING

from tfps.version import __version__

if TYPE_CHECKING:
    from tfps import (
        admission,
        callbacks,
        checkpoint,
        choice,
        eviction,
        layers,
        metrics,
        models,
        nn,
        optimizers,
        serving,
        streaming,
        text,
    )
    from tfps.choice.hardware import Hardware
    from tfps.cluster.local import LocalCluster
    from tfps.keras.choosing import choose_strategy, explain_strategy
    from tfps.keras.planning import plan
    from tfps.replicas.strategies import MirroredStrategy, MultiWorkerMirroredStrategy, OneDeviceStrategy
    from tfps.strategy.strategy import ParameterServerStrategy

__all__ = [
    "Hardware",
    "LocalCluster",
    "MirroredStrategy",
    "MultiWorkerMirroredStrategy",
    "OneDeviceStrategy",
    "ParameterServerStrategy",
    "__version__",
    "admission",
    "callbacks",
    "checkpoint",
    "choice",
    "choose_strategy",
    "data",
    "eviction",
    "explain_strategy",
    "layers",
    "metrics",
    "models",
    "nn",
    "optimizers",
    "plan",
    "serving",
    "streaming",
    "text",
]

_MODULES = (
    "admission",
    "callbacks",
    "checkpoint",
    "choice",
    "data",
    "eviction",
    "layers",
    "metrics",
    "models",
    "nn",
    "optimizers",
    "serving",
    "streaming",
    "text",
)


def __dir__() -> list[str]:
    """Returns the public names, whether or not they are imported yet."""
    return sorted(__all__)


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used."""
    # A server or a launcher needs no Keras, and starts sooner without it.
    if name == "LocalCluster":
        from tfps.cluster.local import LocalCluster

        return LocalCluster
    if name == "ParameterServerStrategy":
        from tfps.keras import hooks
        from tfps.strategy.strategy import ParameterServerStrategy

        # The hooks replace methods of Keras, so only a program that uses a strategy installs them.
        hooks.install()
        return ParameterServerStrategy
    if name in ("MirroredStrategy", "MultiWorkerMirroredStrategy", "OneDeviceStrategy"):
        from tfps.keras.hooks import replicas
        from tfps.replicas import strategies

        replicas.install()
        return getattr(strategies, name)
    if name == "plan":
        from tfps.keras.planning import plan

        return plan
    if name == "Hardware":
        from tfps.choice.hardware import Hardware

        return Hardware
    if name in ("choose_strategy", "explain_strategy"):
        return getattr(importlib.import_module("tfps.keras.choosing"), name)
    if name in _MODULES:
        return importlib.import_module(f"tfps.{name}")
    raise AttributeError(f"module 'tfps' has no attribute {name!r}. Valid: {__all__}.")
