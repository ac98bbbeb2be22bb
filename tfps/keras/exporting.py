"""Exports a model for plain TensorFlow: for the time of the export its variables are on the chief."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tfps.cluster import devices
from tfps.embedding.table import Table
from tfps.keras._compat import Variable, keras
from tfps.strategy.variables import StepVariable


def export(stock: Callable[..., None], model: keras.Model, *args: Any, **kwargs: Any) -> None:
    """Runs Keras's `export`. Needs the memory of the whole model on the chief."""
    with on_chief(model):
        stock(model, *args, **kwargs)


@contextlib.contextmanager
def on_chief(model: keras.Model) -> Iterator[None]:
    """Inside, the model's variables are copies on the chief. Changes to them are lost at the end."""
    moved = [v for v in model.variables if isinstance(v, Variable) and isinstance(v._value, StepVariable | Table)]
    # Keras variables keep their identity and only what they hold changes, so the layers notice nothing.
    before = [variable._value for variable in moved]
    try:
        for variable in moved:
            variable._value = _copy(variable._value)
        yield
    finally:
        for variable, value in zip(moved, before, strict=True):
            variable._value = value


def _copy(value: StepVariable | Table) -> tf.Variable:
    # Names of TensorFlow variables end in ":0", which a new one may not have.
    with tf.device(devices.CHIEF):
        return tf.Variable(value.numpy(), dtype=value.dtype, trainable=value.trainable, name=value.name.split(":")[0])
