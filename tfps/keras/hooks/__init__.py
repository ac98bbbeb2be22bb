"""Hooks into Keras and TensorFlow: they replace a few methods for objects of our strategy, and for no others.

Each hook first checks the type of the strategy. For another strategy, or for none, the original method runs.
A hook only calls the object that does the work: it makes no decision and waits for nothing. docs/architecture.md lists
the hooks.
"""

from tfps.keras.hooks import optimizers, random_numbers, saving, tensorflow, trainers, variables
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.custom_loop import run_in_step

_INSTALLED: set[str] = set()


def install() -> None:
    """Installs the hooks. A second call does nothing."""
    # A hook installed twice would take the first hook for the method of Keras.
    if _INSTALLED:
        return
    _INSTALLED.add("keras")
    ParameterServerStrategy.run_in_step = run_in_step
    for hooked in (variables, random_numbers, optimizers, trainers, saving, tensorflow):
        hooked.install()
