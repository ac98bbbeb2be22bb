"""The callbacks of a training that is one `fit` of Keras for each window, and one training for its callbacks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tfps.errors import ConfigError
from tfps.streaming.checkpoint import WindowCheckpoint
from tfps.streaming.windows import Window

Logs = dict[str, Any]
"""The logs of a window: results of its test as "test_...", those of its training, and times."""


class WindowEnd(keras.callbacks.Callback):
    """Calls the user's function at the end of a window, before it is saved.

    Args:
        window: the window.
        function: the function, of the window and its logs.
        checkpoint: what saves the window.
    """

    def __init__(
        self, window: Window, function: Callable[[Window, Logs], object], checkpoint: WindowCheckpoint
    ) -> None:
        super().__init__()
        self._window, self._function, self._checkpoint = window, function, checkpoint

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Calls the function, unless the window was broken off."""
        if self._checkpoint.is_whole:
            self._function(self._window, dict(logs or {}))


class LearningRate(keras.callbacks.Callback):
    """Sets the learning rate of a window.

    Args:
        rate: the learning rate.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self._rate = rate

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Sets it; also where a checkpoint with that of the window before was restored after the loss of a server."""
        try:
            self.model.optimizer.learning_rate = self._rate
        except TypeError as error:
            raise ConfigError(
                "`learning_rate` needs an optimizer whose learning rate is a number. Received: an optimizer with a "
                f"schedule ({error})."
            ) from None


class WindowCallbacks(keras.callbacks.CallbackList):
    """The callbacks of one window. Those of the user see one training: it begins once, and windows are its epochs.

    Args:
        users: the callbacks of the user.
        own: ours, which are called after them.
        begins: whether the training begins with this window.
        tested: the results of the test, which the logs of the window get.
        model: the model.
        verbose: as for `fit`.
        epochs: the number of the window after this one.
    """

    callbacks: list[keras.callbacks.Callback]

    def __init__(
        self,
        users: Sequence[keras.callbacks.Callback],
        own: Sequence[keras.callbacks.Callback],
        *,
        begins: bool,
        tested: Mapping[str, float],
        model: keras.Model,
        verbose: int | str,
        epochs: int,
    ) -> None:
        # Keras's own come last, and ours before them.
        super().__init__(
            [*users, *own],
            add_history=True,
            add_progbar=verbose != 0,
            model=model,
            verbose=verbose,
            epochs=epochs,
            steps=None,
        )
        self._users, self._begins, self._tested = set(map(id, users)), begins, tested

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Begins the window, and the training if it is the first window."""
        everyone = self.callbacks
        # The user's callbacks have begun with the first window.
        if not self._begins:
            self.callbacks = self._own()
        try:
            super().on_train_begin(logs)
        finally:
            self.callbacks = everyone

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Ends the window."""
        # So a callback of Keras can watch the result of the test, such as `test_auc`.
        super().on_epoch_end(epoch, {**self._tested, **(logs or {})})

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Ends the window; the training goes on."""
        everyone = self.callbacks
        self.callbacks = self._own()
        try:
            super().on_train_end(logs)
        finally:
            self.callbacks = everyone

    def _own(self) -> list[keras.callbacks.Callback]:
        return [one for one in self.callbacks if id(one) not in self._users]
