"""Tells callbacks of ours that `fit` has failed. Keras tells them when it ends, but not when it raises.

Threading: the main thread.
"""

import abc
import contextlib
import logging
from collections.abc import Iterator

from tfps.keras._compat import keras
from tfps.keras.batch_callbacks import flat

_LOG = logging.getLogger("tfps")


class EndsWithFit(keras.callbacks.Callback, abc.ABC):
    """A callback that has something to end, such as a thread, also where `fit` raises."""

    @abc.abstractmethod
    def on_train_fail(self) -> None:
        """Ends what `on_train_begin` began, if it was called. It must not wait for long, and must not train."""


@contextlib.contextmanager
def told(callbacks: object) -> Iterator[None]:
    """Tells callbacks if what runs in this context raises.

    Args:
        callbacks: what the user gave to `fit`.
    """
    try:
        yield
    # A KeyboardInterrupt too.
    except BaseException:
        for one in flat(callbacks):
            if isinstance(one, EndsWithFit):
                try:
                    one.on_train_fail()
                # The error of `fit` is what the user must see.
                except Exception as error:
                    _LOG.warning("%s could not end after a `fit` that failed: %s", type(one).__name__, error)
        raise
