"""The variables that a strategy creates: dense variables on a server, and sums on the chief.

Both are `tf.Variable`s whose `handle` depends on the code that reads it. Inside a traced step it is the worker's own
copy (see `tfps.step`), so that unchanged Keras and TensorFlow code reads and writes locally. Elsewhere it is the
resource on the server or the chief.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfps import step
from tfps.cluster.remote_variable import RemoteVariable
from tfps.ops import id_range
from tfps.placement.model import Placement
from tfps.types import Shape, VariableKey

_KEYS = itertools.count()


class StepVariable(RemoteVariable):
    """A variable that a traced step replaces by the worker's own copy.

    Args:
        initial_value: a tensor, or a function without arguments that runs on the device of the variable.
        name: the name of the variable.
        dtype: the dtype of the variable.
        shape: the shape of the variable.
        trainable: whether gradient tapes watch the variable.
        device: the device of the variable, for example "/job:ps/task:1/device:CPU:0".
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
        """Whether gradient tapes watch the variable. Keras changes this when a user freezes a layer."""
        return bool(self._trainable)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = value

    @property
    def handle(self) -> tf.Tensor:
        """The handle of the worker's copy inside a step that has one; otherwise the handle of the variable itself."""
        current = step.current()
        # Code of TensorFlow may read the handle of a variable that has no key yet.
        if current is None or not hasattr(self, "key"):
            return self.home_handle
        copy = current.handle_of(self.key)
        if copy is None:
            current.uncopied[self.key] = self
        return self.home_handle if copy is None else copy

    def _lazy_read(self, op: tf.Operation) -> tf.Tensor:
        """Reads the variable after an assignment."""
        # In a step the assignment went to the worker's copy. TensorFlow's method would read the variable on its server.
        if self.handle is self.home_handle:
            return super()._lazy_read(op)
        with tf.control_dependencies([op]):
            return self.read_value()


@dataclasses.dataclass(frozen=True)
class Average:
    """Marks a variable as a moving average: each step keeps a fraction of it and adds a new part.

    `tfps.training.moving_averages` merges the moving averages of several workers. A running product, such as Nadam's
    product of momenta, is also marked. Its fraction is different in each step.

    Args:
        decay: the fraction that a step keeps; None for a product.
        counter: the key of the variable that counts the steps; for a product, the key of the product itself.
    """

    decay: float | None
    counter: VariableKey


class DenseVariable(StepVariable):
    """A variable that one server holds and that always crosses as a whole: kernels, biases, their slots, counters.

    Attributes:
        placement: the placement of the variable.
        average: the settings of a moving average that an optimizer declares; None for all other variables.
        constraint: the constraint of its layer, a function of the value; None without one. Servers apply it to the sum
            of what workers push.
        latest: whether each push replaces the value, whatever a step assigns: the scale of a loss, say.
        carried: whether each worker carries its own value from one of its batches to its next, such as the state of a
            stateful RNN. An epoch begins with the server's value, which is that of the last push.
        told: whether the log has said that workers lose what others assign to it.
    """

    placement: Placement
    average: Average | None = None
    constraint: Callable[[tf.Tensor], tf.Tensor] | None = None
    latest: bool = False
    carried: bool = False
    told: bool = False

    def assign(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        """Assigns a value, as any `tf.Variable`; a step under trace takes note of it."""
        return super().assign(self._note(value, 0.0), *args, **kwargs)

    def assign_add(self, delta: Any, *args: Any, **kwargs: Any) -> Any:
        """Adds a value, as any `tf.Variable`; a step under trace takes note of it."""
        return super().assign_add(self._note(delta, 1.0), *args, **kwargs)

    def assign_sub(self, delta: Any, *args: Any, **kwargs: Any) -> Any:
        """Subtracts a value, as any `tf.Variable`; a step under trace takes note of it."""
        return super().assign_sub(self._note(delta, -1.0), *args, **kwargs)

    def scatter_update(self, sparse_delta: tf.IndexedSlices, *args: Any, **kwargs: Any) -> Any:
        """Overwrites rows, as any `tf.Variable`; a step under trace takes note of it."""
        self._note(sparse_delta.values, 0.0, tf.reshape(sparse_delta.indices, [-1, 1]))
        return super().scatter_update(sparse_delta, *args, **kwargs)

    def scatter_nd_update(self, indices: Any, updates: Any, *args: Any, **kwargs: Any) -> Any:
        """Overwrites slices, as any `tf.Variable`; a step under trace takes note of it."""
        self._note(updates, 0.0, indices)
        return super().scatter_nd_update(indices, updates, *args, **kwargs)

    def _note(self, value: Any, added: float, indices: Any = None) -> Any:
        """Tells the current step what is assigned; returns the value as a tensor there, and as it is elsewhere.

        Args:
            value: the assigned or added value, of the slices if there are `indices`; None if nothing is known.
            added: 0 for an assignment; 1 if the value is added, -1 if it is subtracted.
            indices: the indices of the slices that are overwritten, as in `tf.scatter_nd`; None otherwise.
        """
        current = step.current()
        if current is None or current.assignments is None or current.copy_of(self.key) is None:
            return value
        value = value if value is None else tf.convert_to_tensor(value, self.dtype)
        current.assignments.note(self, value, added, indices)
        return value


def _noted(name: str) -> Callable[..., Any]:
    """Returns a method of `tf.Variable` whose effect workers cannot merge, for a `DenseVariable`."""
    stock = getattr(StepVariable, name)

    @functools.wraps(stock)
    def change(variable: DenseVariable, *args: Any, **kwargs: Any) -> Any:
        variable._note(None, 0.0)
        return stock(variable, *args, **kwargs)

    return change


for _name in (
    *("scatter_max", "scatter_min", "scatter_mul", "scatter_div", "batch_scatter_update"),
    *("scatter_nd_max", "scatter_nd_min"),
):
    setattr(DenseVariable, _name, _noted(_name))


class SeedVariable(DenseVariable):
    """The state [key, counter] of a random generator. Each worker draws with its own key."""


class SmallTable(DenseVariable):
    """A table that is small enough to be a dense variable. Optimizers update it whole, as in one process."""

    def sparse_read(self, indices: tf.Tensor, name: str | None = None) -> tf.Tensor:
        """Looks up rows; `tf.gather` and `keras.ops.take` call it.

        Args:
            indices: int32 or int64 ids of any shape; 0 <= id < rows.
            name: the name scope of the operations.

        Raises:
            IdRangeError: an id is out of range. In a graph the operation fails with a message that the chief
                translates.
        """
        # TensorFlow's own message would name neither the table nor the layer.
        with id_range.translate_eager_errors():
            checked = id_range.check_in_range(self.placement.spec.name, self.shape[0], indices)
        with tf.control_dependencies([] if checked is None else [checked]):
            return super().sparse_read(indices, name)


class SumVariable(StepVariable):
    """A sum over all workers that the chief holds: the state of a metric.

    A worker starts each closure at zero and returns what it has added. So a metric needs no remote operation in a step,
    and a closure that runs again counts once.
    """
