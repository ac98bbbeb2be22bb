"""A model for a moment without its servers, so that Keras can export it for plain TensorFlow to serve."""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfps.cluster import devices
from tfps.embedding.table import Table
from tfps.keras._compat import Variable
from tfps.strategy.variables import StepVariable


def export(stock: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """Keras's `export`; needs the memory of the whole model on the chief."""
    with on_chief(model):
        return stock(model, *args, **kwargs)


@contextlib.contextmanager
def on_chief(model: Any) -> Iterator[None]:
    """Inside, the model's variables are plain ones of this process with the servers' values; changes are not kept."""
    moved = [v for v in model.variables if isinstance(v, Variable) and isinstance(v._value, StepVariable | Table)]
    held = [variable._value for variable in moved]
    try:
        for variable in moved:
            variable._value = _copy(variable._value)
        yield
    finally:
        for variable, value in zip(moved, held, strict=True):
            variable._value = value


def _copy(value: Any) -> tf.Variable:
    with tf.device(devices.CHIEF):
        return tf.Variable(value.numpy(), dtype=value.dtype, trainable=value.trainable, name=value.name.split(":")[0])
