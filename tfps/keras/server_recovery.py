"""Lets `fit` go on in the same program after a parameter server has died, if a callback can restore what it held.

The server is started again, its variables are made anew, the callback restores values from its last checkpoint, and
Keras's `fit` runs again, from the epoch and batch of these values. Its callbacks see `on_train_begin` again.

Threading: the main thread.
"""

import abc
import logging
from collections.abc import Callable
from typing import Any

import keras

from tfps.errors import ServerLostError
from tfps.keras.batch_callbacks import SavingCallback, flat
from tfps.runtime.recovery import register, replace_servers

_LOG = logging.getLogger("tfps")


class RestoringCallback(SavingCallback):
    """A callback that can give the variables of lost servers their values again."""

    @property
    @abc.abstractmethod
    def can_restore(self) -> bool:
        """Whether there is a checkpoint to restore from, and the input of `fit` can be read again."""

    @abc.abstractmethod
    def finish_writing(self) -> None:
        """Waits for the checkpoint that is being written, and raises its error."""

    @abc.abstractmethod
    def begin_recovery(self) -> None:
        """Notes where the `fit` was that has lost a server; called before its functions are dropped."""

    @abc.abstractmethod
    def restore_lost(self, servers: list[int]) -> None:
        """Restores what lost servers held, and lets the next `fit` go on from there.

        Args:
            servers: the numbers of the servers. Their variables exist again and are NaN.
        """


def fit_through_losses(run: Callable[[], Any], model: keras.Model, callbacks: object) -> Any:
    """Runs `fit`, and again after each loss of a server.

    Args:
        run: runs `fit`.
        model: a model of our strategy.
        callbacks: the callbacks of the call.

    Returns:
        The history of all epochs that count.
    """
    restoring = next((one for one in flat(callbacks) if isinstance(one, RestoringCallback)), None)
    if restoring is None:
        return run()
    strategy, earlier = model.distribute_strategy, None
    register(strategy, restoring.restore_lost)
    # A signal ends `fit` after a step, and the callback saves the end of that step.
    strategy.stop_signals.register(restoring.finish_writing)
    try:
        # Each turn costs a restart of a server, whose number is limited.
        while True:
            try:
                return _join(earlier, run())
            except ServerLostError as error:
                if not restoring.can_restore:
                    raise
                # Before the functions are dropped, which know how far the failed `fit` was.
                restoring.begin_recovery()
                earlier = _join(earlier, model.history)
                _replace(strategy, error)
    finally:
        register(strategy, None)
        strategy.stop_signals.register(None)


def _replace(strategy: Any, error: ServerLostError) -> None:
    """Replaces the servers of a loss, and others that die meanwhile."""
    while True:
        try:
            replace_servers(strategy, error.servers)
            return
        except ServerLostError as another:
            # The number of restarts is limited, so this ends.
            _LOG.warning("another server was lost: %s", another.summary)
            error = another


def _join(earlier: keras.callbacks.History | None, later: Any) -> Any:
    """Returns a history with the epochs of two: the later ones replace those that were trained again."""
    if earlier is None or not isinstance(later, keras.callbacks.History):
        return later
    kept = [index for index, epoch in enumerate(earlier.epoch) if not later.epoch or epoch < min(later.epoch)]
    for name, values in later.history.items():
        before = earlier.history.get(name, [])
        values[:0] = [before[index] for index in kept if index < len(before)]
    if not later.epoch:
        later.history.update({name: [values[index] for index in kept] for name, values in earlier.history.items()})
    later.epoch[:0] = [earlier.epoch[index] for index in kept]
    return later
