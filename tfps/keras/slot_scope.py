"""Places the slots of an optimizer beside the variable that they belong to."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from tfps.keras._compat import Variable
from tfps.strategy.strategy import ParameterServerStrategy


@contextlib.contextmanager
def slot_scope(optimizer: keras.Optimizer, variable: keras.Variable | tf.Variable) -> Iterator[None]:
    """Places variables made in this scope beside `variable`: row by row on its servers, or on its device.

    Args:
        optimizer: the optimizer that creates the slots; it knows the strategy.
        variable: the variable that the slots belong to.
    """
    strategy = optimizer._distribution_strategy
    if isinstance(strategy, ParameterServerStrategy):
        # An optimizer may build itself while a step is traced, but its slots must outlive that graph.
        with (
            strategy.outside_steps(),
            strategy.slots_of(variable._value if isinstance(variable, Variable) else variable),
        ):
            yield
    else:
        # For any other strategy this places slots as Keras does.
        with strategy.extended.colocate_vars_with(variable.value if isinstance(variable, Variable) else variable):
            yield
