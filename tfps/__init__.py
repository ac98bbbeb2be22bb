"""Parameter servers for today's Keras: a strategy around unchanged Keras code."""

from tfps.cluster.local import LocalCluster
from tfps.keras import hooks as _hooks
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.version import __version__

__all__ = ["LocalCluster", "ParameterServerStrategy", "__version__"]

_hooks.install()
