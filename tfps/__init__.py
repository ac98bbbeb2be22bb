"""Parameter servers for today's Keras: a strategy around unchanged Keras code."""

import importlib
from typing import TYPE_CHECKING, Any

from tfps.version import __version__

if TYPE_CHECKING:
    from tfps import layers, models, nn, optimizers, text
    from tfps.cluster.local import LocalCluster
    from tfps.keras.planning import plan
    from tfps.strategy.strategy import ParameterServerStrategy

__all__ = [
    "LocalCluster",
    "ParameterServerStrategy",
    "__version__",
    "layers",
    "models",
    "nn",
    "optimizers",
    "plan",
    "text",
]


def __dir__() -> list[str]:
    """The public names, also those that are not imported yet."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Imports what is asked for: a server or a launcher needs no Keras, and starts sooner without."""
    if name == "LocalCluster":
        from tfps.cluster.local import LocalCluster

        return LocalCluster
    if name == "ParameterServerStrategy":
        from tfps.keras import hooks
        from tfps.strategy.strategy import ParameterServerStrategy

        hooks.install()
        return ParameterServerStrategy
    if name == "plan":
        from tfps.keras.planning import plan

        return plan
    if name in ("layers", "models", "nn", "optimizers", "text"):
        return importlib.import_module(f"tfps.{name}")
    raise AttributeError(f"module 'tfps' has no attribute {name!r}. Valid: {__all__}.")
