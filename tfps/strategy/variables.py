"""The variables a strategy makes: dense ones that live on a server, and sums that live on the chief.

Both are `tf.Variable`s whose `handle` depends on where it is asked for: inside a traced step it is the worker's own
copy (see `tfps.step`), so that stock Keras and TensorFlow code reads and writes locally; elsewhere it is the resource
that the server (or the chief) holds.
"""

import dataclasses
import itertools
from collections.abc import Callable

import tensorflow as tf

from tfps import step
from tfps.cluster.remote_variable import RemoteVariable
from tfps.placement.model import Placement
from tfps.types import Shape, VariableKey

_KEYS = itertools.count()


class StepVariable(RemoteVariable):
    """A variable that a traced step replaces by the worker's own copy.

    Args:
        initial_value: a tensor, or a function of no argument, run on the device of the variable.
        name: of the variable.
        dtype: its type.
        shape: its shape.
        trainable: whether tapes watch it.
        device: where it lives, for example "/job:ps/task:1/device:CPU:0".
    """

    def __init__(
        self,
        initial_value: tf.Tensor | Callable[[], tf.Tensor],
        *,
        name: str,
        dtype: str | tf.DType,
        shape: Shape | tf.TensorShape,
        trainable: bool,
        device: str,
    ) -> None:
        self.key = next(_KEYS)
        super().__init__(initial_value, trainable=trainable, name=name, dtype=dtype, shape=shape, device=device)

    @property
    def trainable(self) -> bool:
        """Whether tapes watch it. Keras changes that when a layer is frozen or thawed."""
        return bool(self._trainable)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = value

    @property
    def handle(self) -> tf.Tensor:
        """The worker's copy inside a step that has one, else the resource itself."""
        current = step.current()
        # TensorFlow's constructor asks for the handle before this class has set the key.
        copy = current.copy_of(self.key) if current is not None and hasattr(self, "key") else None
        return self.home_handle if copy is None else copy

    def _lazy_read(self, op: tf.Operation) -> tf.Tensor:
        """Reads after an assignment go where the assignment went, not to `_handle`."""
        # In a step the assignment went to the worker's copy, and so must the read.
        if self.handle is self.home_handle:
            return super()._lazy_read(op)
        with tf.control_dependencies([op]):
            return self.read_value()


@dataclasses.dataclass(frozen=True)
class Average:
    """Marks a variable as a moving average: a step keeps a fraction of it and adds something new.

    `tfps.training.moving_averages` merges those of several workers. A running product, as Nadam keeps of its momenta,
    is marked too: there the fraction is another one in each step.

    Args:
        decay: the fraction that a step keeps; None for a product.
        counter: key of the variable that counts the steps; for a product its own key.
    """

    decay: float | None
    counter: VariableKey


class DenseVariable(StepVariable):
    """A variable that one server holds and that crosses whole: kernels, biases, their slots, counters.

    Attributes:
        placement: where the plan put it.
        average: how it is averaged, if it is a moving average; None for all others, whose changes are added up.
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
