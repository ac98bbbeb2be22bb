"""`Sync`: puts a Keras optimizer into synchronous mode, with one update per global step by the mean gradient."""

import dataclasses
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tfps import step
from tfps.checks import check_integer
from tfps.embedding.table import Table
from tfps.errors import ConfigError
from tfps.keras import finite_gradients, row_optimizers
from tfps.keras._compat import Variable
from tfps.keras.model_steps import ModelSteps
from tfps.keras.modes import ModeOptimizer, ModeSettings, get_optimizer, with_mode
from tfps.keras.multi_optimizer import is_multi, part_for, unscaled
from tfps.keras.optimizers import by_rows
from tfps.keras.plain_variables import check_trained
from tfps.strategy.arguments import STOP
from tfps.training.mode import Mode
from tfps.training.synchronous.mode import Synchronous


class SyncOptimizer(ModeOptimizer):
    """An optimizer whose updates run on the servers, with the mean of the gradients that the workers contribute."""

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """Contributes the gradients to the global step if called on a worker; otherwise updates the variables."""
        current = step.current()
        # Bound here, because `super()` without arguments does not work inside the nested function below.
        update = super().apply
        # Plain Keras and the merge on the servers both land here: without contributions to collect, this is an ordinary
        # optimizer.
        if current is not None and current.gather is not None:
            current.gather(grads, lambda joined: self.apply(joined, trainable_variables))
            return
        if current is None or current.contributions is None:
            update(grads, trainable_variables)
            return
        contribute(current.contributions, self, update, grads, trainable_variables)


def contribute(
    contributions: list[step.Contribution],
    optimizer: keras.Optimizer,
    update: Callable[[Sequence[tf.Tensor | None], Sequence[keras.Variable]], None],
    gradients: Sequence[tf.Tensor | None],
    trainable_variables: Sequence[keras.Variable] | None,
) -> None:
    """Hands gradients over to the servers instead of an update.

    Args:
        contributions: the contributions of the step.
        optimizer: the optimizer that the step applies.
        update: makes the update from mean gradients and their variables; it runs on the servers.
        gradients: the gradient of each variable; None for a variable without one.
        trainable_variables: the variables; None for those that the optimizer was built with.
    """
    variables = list(optimizer._trainable_variables if trainable_variables is None else trainable_variables)
    # A variable without a gradient is left out, as in Keras.
    pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
    updated = [variable for _, variable in pairs]
    check_trained(updated)
    # A scaled loss may overflow: then the servers leave the update out.
    if optimizer._distribution_strategy.on_nan == STOP and unscaled(optimizer) is optimizer:
        finite_gradients.check(optimizer, gradients, variables)

    def apply_means(means: Sequence[tf.Tensor]) -> None:
        if is_multi(unscaled(optimizer)):
            # A MultiOptimizer expects an entry for every variable it was built with: None for a missing gradient.
            by_variable = dict(zip(map(id, updated), means, strict=True))
            update([by_variable.get(id(variable)) for variable in variables], variables)
        else:
            update(means, updated)

    values = [v._value if isinstance(v, Variable) else v for v in updated]
    by_value = [
        by_rows(gradient, value) if isinstance(value, Table) else gradient
        for (gradient, _), value in zip(pairs, values, strict=True)
    ]
    measures = [
        row_optimizers.contributed_measure(part_for(optimizer, value), value) if isinstance(value, Table) else None
        for value in values
    ]
    contributions.append(step.Contribution(by_value, values, measures, apply_means))


@dataclasses.dataclass(frozen=True)
class SyncMode(ModeSettings):
    """The settings of an optimizer made by `Sync`.

    Args:
        drop_slowest: the number of workers that a step does not wait for, at least 0.
        max_staleness: the number of updates that a gradient may miss, at least 0.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    prefix = "Sync"
    mixin = SyncOptimizer
    updates_on_servers = True

    drop_slowest: int
    max_staleness: int

    def __post_init__(self) -> None:
        """Checks the fields."""
        # A frozen dataclass forbids plain assignment, and the checked values have to be stored.
        for name in ("drop_slowest", "max_staleness"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name), at_least=0))
        if self.drop_slowest and self.max_staleness:
            raise ConfigError(
                "`drop_slowest` and `max_staleness` must not both be above 0: one drops late gradients, the other uses "
                f"them. Received: drop_slowest={self.drop_slowest}, max_staleness={self.max_staleness}."
            )

    def make_mode(self, steps: ModelSteps) -> Mode:
        """Makes the synchronous mode of a model."""
        return Synchronous(steps.strategy, self.drop_slowest, self.max_staleness)


def sync(optimizer: keras.Optimizer | str, drop_slowest: int = 0, max_staleness: int = 0) -> keras.Optimizer:
    """Puts an optimizer into synchronous mode: each global step makes one update from one batch of every worker.

    The update uses the mean gradient, weighted by the number of examples in each batch. If the loss is a mean over
    examples, this equals the update of one process with the concatenated batch (docs/optimizers.md has other losses,
    such as masked ones). The gradient of a table row is also the mean over all examples, and the row is updated once.
    `iterations` counts updates: an epoch has as many as the longest input shard has batches, and more with
    `drop_slowest`. In the last steps of an epoch, workers without a batch contribute nothing. Layers that look at a
    whole batch (`BatchNormalization`) see the batch of one worker. With a `max_staleness` above 0 they need a momentum
    of at least 1 - 1 / (4 * max_staleness).

    `Sync` changes the class of the optimizer to a subclass and returns it. Its learning rate, schedules, slots and
    saving work as before. Without `tfps.ParameterServerStrategy` it trains as before, too.

    Args:
        optimizer: a Keras optimizer, or its name.
        drop_slowest: the number of workers that a step does not wait for. A late gradient is dropped, and its batch is
            trained again in a later step, so each batch counts once.
        max_staleness: a worker may begin a batch while up to this many of its earlier batches are in no update yet. 0
            waits for each update; 1 hides the exchange behind the next batch.

    Returns:
        The optimizer.

    Raises:
        ConfigError: an argument breaks its rule.
        UnsupportedError: the optimizer is already in another mode.

    Example:
        >>> import keras, tfps
        >>> optimizer = tfps.optimizers.Sync(keras.optimizers.Adam(0.001))
        >>> optimizer.tfps_mode.drop_slowest, isinstance(optimizer, keras.optimizers.Adam)
        (0, True)
    """
    # The settings check themselves before the class of the optimizer changes.
    mode = SyncMode(drop_slowest, max_staleness)
    optimizer = get_optimizer(optimizer)
    return with_mode(optimizer, mode)
