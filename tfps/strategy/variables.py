"""The variables a strategy makes: dense ones that live on a server, and sums that live on the chief.

Both are `tf.Variable`s whose `handle` depends on where it is asked for: inside a traced step it is the worker's own
copy (see `tfps.step`), so that stock Keras and TensorFlow code reads and writes locally; elsewhere it is the resource
that the server (or the chief) holds.
"""

import dataclasses
import itertools
from collections.abc import Hashable
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import resource_variable_ops  # the class tf.Variable makes is not public

from tfps import step
from tfps.cluster import connection, devices
from tfps.cluster.faults import translated
from tfps.placement.model import Placement

_KEYS = itertools.count()


class StepVariable(resource_variable_ops.ResourceVariable):
    """A resource variable that a traced step replaces by the worker's own copy.

    Args:
        initial_value: a tensor, or a function of no argument, run on the device of the variable.
        name: of the variable.
        dtype: its type.
        shape: its shape.
        trainable: whether tapes watch it.
        device: where it lives, for example "/job:ps/task:1/device:CPU:0".
    """

    def __init__(self, initial_value: Any, *, name: str, dtype: Any, shape: Any, trainable: bool, device: str) -> None:
        self.key = next(_KEYS)
        # The chief stays where it is whatever cluster it is connected to; what a server holds goes with that.
        self._connection = None if device == devices.CHIEF else connection.current()
        with tf.device(device):
            super().__init__(initial_value, trainable=trainable, name=name, dtype=dtype, shape=shape)
        if self._connection is not None:
            self._connection.add_user(self)

    @property
    def trainable(self) -> bool:
        """Whether tapes watch it. Keras changes that when a layer is frozen or thawed."""
        return bool(self._trainable)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = value

    @property
    def handle(self) -> Any:
        """The worker's copy inside a step that has one, else the resource itself."""
        current = step.current()
        copy = current.copy_of(self.key) if current is not None and hasattr(self, "key") else None
        return self.home_handle if copy is None else copy

    @property
    def home_handle(self) -> Any:
        """The resource on the server or the chief, wherever it is asked for.

        Raises:
            ClusterError: the strategy that it was made under has ended.
        """
        if self._connection is not None:
            self._connection.check()
        return self._handle

    def release(self) -> None:
        """Lets go of the resource, as the strategy that it was made under ends."""
        self._handle = None

    def _read_variable_op(self, no_copy: bool = False) -> tf.Tensor:
        if self._connection is None or not tf.executing_eagerly():
            return super()._read_variable_op(no_copy)
        with translated(self._connection.cluster):
            return super()._read_variable_op(no_copy)

    def _lazy_read(self, op: Any) -> Any:
        """Reads after an assignment go where the assignment went, not to `_handle`."""
        if self.handle is self.home_handle:
            return super()._lazy_read(op)
        with tf.control_dependencies([op]):
            return self.read_value()


@dataclasses.dataclass(frozen=True)
class Average:
    """A moving average: a step keeps a part of it and adds something new (see `tfps.training.moving_averages`).

    Args:
        decay: the part that a step keeps; None of a product, which a step multiplies by what it likes.
        counter: key of the variable that counts the steps; of a product its own.
    """

    decay: float | None
    counter: Hashable


class DenseVariable(StepVariable):
    """A variable that one server holds and that crosses whole: kernels, biases, their slots, counters.

    Attributes:
        placement: where the plan put it.
        average: what makes it a moving average; None of all others, whose changes are added up.
    """

    placement: Placement
    average: Average | None = None


class SeedVariable(DenseVariable):
    """The state [key, counter] of a random generator: workers draw with keys of their own."""


class SumVariable(StepVariable):
    """A sum over all workers, held by the chief: the state of a metric.

    Workers start each closure at zero and return what they added, so a metric costs no remote op in a step, and a
    closure that is run again counts once.
    """
