"""`Sync`: a Keras optimizer that makes one update a global step, of the mean gradient of all workers' batches."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfps import step
from tfps.errors import ConfigError
from tfps.keras._compat import Variable
from tfps.keras.model_steps import ModelSteps
from tfps.keras.modes import Moded, ModeSettings, optimizer_of, with_mode
from tfps.keras.multi_optimizer import is_multi
from tfps.training.mode import Mode
from tfps.training.synchronous.mode import Synchronous
from tfps.types import is_integer


class SyncOptimizer(Moded):
    """An optimizer whose updates are made by the servers, of the mean of what workers contribute."""

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """On a worker: gives the gradients to the global step. Where they are merged: updates."""
        current = step.current()
        update = super().apply
        if current is None or current.contributions is None:
            update(grads, trainable_variables)
            return
        variables = list(self._trainable_variables if trainable_variables is None else trainable_variables)
        pairs = [(g, v) for g, v in zip(grads, variables, strict=True) if g is not None]
        values = [v._value if isinstance(v, Variable) else v for _, v in pairs]
        updated = [variable for _, variable in pairs]
        gradients = [gradient for gradient, _ in pairs]

        def apply_means(means: Sequence[tf.Tensor]) -> None:
            if is_multi(self):
                # It wants a gradient for every variable it was built with, None for those that have none.
                by_variable = dict(zip(map(id, updated), means, strict=True))
                update([by_variable.get(id(variable)) for variable in variables], variables)
            else:
                update(means, updated)

        current.contributions.append(step.Contribution(gradients, values, apply_means))


@dataclasses.dataclass(frozen=True)
class SyncMode(ModeSettings):
    """How an optimizer made by `Sync` trains.

    Args:
        drop_slowest: workers that a step does not wait for, at least 0.
        max_staleness: updates that a batch may miss, at least 0.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    prefix = "Sync"
    mixin = SyncOptimizer

    drop_slowest: int
    max_staleness: int

    def __post_init__(self) -> None:
        """Checks the fields."""
        for name in ("drop_slowest", "max_staleness"):
            value = getattr(self, name)
            if not is_integer(value) or value < 0:
                raise ConfigError(f"`{name}` must be an integer of at least 0. Received: {value!r}.")
            object.__setattr__(self, name, int(value))  # numpy's would not be saved
        if self.drop_slowest and self.max_staleness:
            raise ConfigError(
                "`drop_slowest` and `max_staleness` must not both be above 0: the one drops what is late, the other "
                f"allows for it. Received: drop_slowest={self.drop_slowest}, max_staleness={self.max_staleness}."
            )

    def make_mode(self, steps: ModelSteps) -> Mode:
        """Synchronous training of a model."""
        return Synchronous(steps.strategy, self.drop_slowest, self.max_staleness)


def sync(optimizer: Any, drop_slowest: int = 0, max_staleness: int = 0) -> keras.Optimizer:
    """Trains synchronously: each global step takes a batch of every worker and makes one update of their mean gradient.

    The mean is weighted by the examples of each batch, so that the update is that of one process with the joined
    batch where the loss is a mean over examples (others, such as masked ones: docs/optimizers.md); of a row of a table
    it is the mean over all examples too, and the row is updated once. `iterations` counts updates: an epoch has as many
    as the longest share of a worker has batches, and more with `drop_slowest`. In the last steps of an epoch workers
    that have no batch left contribute nothing. Layers that look at a whole batch (`BatchNormalization`) see the
    worker's, and need a momentum of at least 1 - 1 / (4 * max_staleness).

    The mode is the optimizer's, which is returned, now an instance of a subclass of its class: everything that holds
    for it (learning rate, schedules, slots, saving) still does. Without `tfps.ParameterServerStrategy` it trains as it
    always did.

    Args:
        optimizer: a Keras optimizer, or its name.
        drop_slowest: a step does not wait for so many workers; what comes too late is dropped, and its batch goes
            again into a later step, so that each is trained once.
        max_staleness: a worker may begin a batch before so many of its own last ones are part of an update. 0 waits
            for each; 1 hides the exchange behind the next batch.

    Returns:
        The optimizer.

    Raises:
        ConfigError: an argument breaks its rule.
        UnsupportedError: the optimizer is in another mode.

    Example:
        >>> import keras, tfps
        >>> optimizer = tfps.optimizers.Sync(keras.optimizers.Adam(0.001))
        >>> optimizer.tfps_mode.drop_slowest, isinstance(optimizer, keras.optimizers.Adam)
        (0, True)
    """
    mode = SyncMode(drop_slowest, max_staleness)
    optimizer = optimizer_of(optimizer)
    return with_mode(optimizer, mode)
