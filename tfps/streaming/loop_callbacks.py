"""The callbacks of a training that is one `fit` of Keras for each window, and one training for its callbacks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tfps.streaming.windows import Window

Logs = dict[str, Any]
"""The logs of a window: results of its test as "test_...", those of its training, and times."""


class WindowEnd(keras.callbacks.Callback):
    """Calls the user's function at the end of a window, before it is saved.

    Args:
        window: the window.
        function: the function, of the window and its logs.
    """

    def __init__(self, window: Window, function: Callable[[Window, Logs], object]) -> None:
        super().__init__()
        self._window, self._function = window, function

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Calls the function."""
        self._function(self._window, dict(logs or {}))


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
        if not self._begins:
            self.callbacks = self._own()
        try:
            super().on_train_begin(logs)
        finally:
            self.callbacks = everyone

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Ends the window."""
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
