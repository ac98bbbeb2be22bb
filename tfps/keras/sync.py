"""`Sync`: a Keras optimizer that makes one update a global step, of the mean gradient of all workers' batches."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfps import step
from tfps.checks import check_integer
from tfps.errors import ConfigError
from tfps.keras._compat import Variable
from tfps.keras.model_steps import ModelSteps
from tfps.keras.modes import Moded, ModeSettings, optimizer_of, with_mode
from tfps.keras.multi_optimizer import is_multi
from tfps.training.mode import Mode
from tfps.training.synchronous.mode import Synchronous


class SyncOptimizer(Moded):
    """An optimizer whose updates are made by the servers, of the mean of what workers contribute."""

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """On a worker: gives the gradients to the global step. Where they are merged: updates."""
        current = step.current()
        # Bound here: `super()` would not work inside the function below, which runs later.
        update = super().apply
        # Outside a step of this mode, as in plain Keras or where the servers apply the update, it is an ordinary
        # optimizer.
        if current is None or current.contributions is None:
            update(grads, trainable_variables)
            return
        variables = list(self._trainable_variables if trainable_variables is None else trainable_variables)
        # As Keras does: a variable without a gradient is left alone.
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
            object.__setattr__(self, name, check_integer(name, getattr(self, name), at_least=0))
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

    The mean is weighted by the examples of each batch. Where the loss is a mean over examples, the update is that of
    one process with the concatenated batch (for other losses, such as masked ones, see docs/optimizers.md). The
    gradient of a row of a table is the mean over all examples too, and the row is updated once. `iterations` counts
    updates: an epoch has as many as the longest input shard has batches, and more with `drop_slowest`. In the last
    steps of an epoch workers that have no batch left contribute nothing. Layers that look at a whole batch
    (`BatchNormalization`) see that of the worker, and need a momentum of at least 1 - 1 / (4 * max_staleness).

    The optimizer is returned; it is now an instance of a subclass of its class, and its learning rate, schedules, slots
    and saving work as before. Without `tfps.ParameterServerStrategy` it trains as it always did.

    Args:
        optimizer: a Keras optimizer, or its name.
        drop_slowest: number of workers that a step does not wait for. A gradient that comes too late is dropped, and
            its batch is trained again in a later step, so each batch counts once.
        max_staleness: a worker may begin a batch while so many of its own batches are not part of an update yet. 0
            waits for each; 1 hides the exchange behind the next batch.

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
