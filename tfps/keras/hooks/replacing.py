"""Replaces a method of Keras or a function of TensorFlow, for the calls that concern our strategy and for no others."""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeAlias

from tfps.errors import ClusterError, IdRangeError, InputFileError
from tfps.keras._compat import keras

Method: TypeAlias = Callable[..., Any]
"""A method of Keras; its first argument is the object."""


def replace(owner: type | ModuleType, name: str, ours: Callable[..., Any], applies: Callable[..., bool]) -> None:
    """Replaces a method or function: calls `ours(stock, ...)` if `applies(...)`, and the stock one otherwise."""
    stock = getattr(owner, name)

    @functools.wraps(stock)
    def method(*args: object, **kwargs: object) -> object:
        if not applies(*args, **kwargs):
            return stock(*args, **kwargs)
        try:
            return ours(stock, *args, **kwargs)
        except (ClusterError, IdRangeError, InputFileError) as error:
            if not keras.config.is_traceback_filtering_enabled():
                raise
            # The cause is in the data or on another host. The frames of Keras and tfps would only hide the message.
            raise error.with_traceback(None) from None

    setattr(owner, name, method)
