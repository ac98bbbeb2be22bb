"""Exports a model for plain TensorFlow. During the export its variables are on the chief."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tfps.cluster import devices
from tfps.embedding.table import Table
from tfps.keras._compat import Variable, keras
from tfps.strategy.variables import StepVariable


def export(stock: Callable[..., None], model: keras.Model, *args: Any, **kwargs: Any) -> None:
    """Runs Keras's `export`. The chief needs memory for the whole model."""
    with on_chief(model):
        stock(model, *args, **kwargs)


@contextlib.contextmanager
def on_chief(model: keras.Model) -> Iterator[None]:
    """Replaces the variables of the model by copies on the chief in this scope. Changes to the copies are lost."""
    moved = [v for v in model.variables if isinstance(v, Variable) and isinstance(v._value, StepVariable | Table)]
    # The Keras variables stay the same objects and only their values change, so the layers need no change.
    before = [variable._value for variable in moved]
    try:
        for variable in moved:
            variable._value = _copy(variable._value)
        yield
    finally:
        # If a copy failed, the variables that were not replaced get the value that they still have.
        for variable, value in zip(moved, before, strict=True):
            variable._value = value


def _copy(value: StepVariable | Table) -> tf.Variable:
    # The name of a TensorFlow variable ends in ":0", but the name for a new one must not contain a colon.
    with tf.device(devices.CHIEF):
        return tf.Variable(value.numpy(), dtype=value.dtype, trainable=value.trainable, name=value.name.split(":")[0])
