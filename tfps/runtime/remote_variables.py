"""Owns the named variables on other tasks that are not Keras variables.

Examples: the copies of dense variables that a worker trains on, the push ledger on a server, and the messages that wait
on a server for its next update. Graphs find such a variable by its name on the task, so TensorFlow never frees it.
Here each variable has an owner. When the owner is collected or closed, its variables are destroyed.

Ownership: `RemoteVariables` knows the tasks of a strategy; the `OwnedVariables` of an owner knows the names. Iterators
are not here: they have no names, and end with the epoch that reads them (`tfps.inputs.iterators`).
Threading: Python may collect an owner in any thread and at any moment. The thread of the task destroys its variables
later, between two closures, because another model may share a layer and so use the same copy.
"""

import dataclasses
import functools
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import tensorflow as tf

from tfps import jobs
from tfps.cluster import background, devices
from tfps.errors import TfpsError
from tfps.runtime.pool import WorkerPool
from tfps.runtime.task_thread import TaskThread

_LOG = logging.getLogger("tfps")
_PREFIX = "tfps_"
"""The prefix of the names of all variables here. User code may name other variables."""


class Tasks(Protocol):
    """The tasks of a strategy. `ParameterServerStrategy` implements it."""

    @property
    def pool(self) -> WorkerPool:
        """The pool with a thread for each worker."""
        ...

    @property
    def server_pool(self) -> WorkerPool:
        """The pool with one thread for all servers."""
        ...

    @property
    def worker_devices(self) -> list[str]:
        """The compute device of each worker."""
        ...


@dataclasses.dataclass(frozen=True)
class RemoteVariable:
    """A variable that graphs find by its name on a device.

    Args:
        device: the device of the variable, or that of its worker.
        name: a name that no other variable of the task has.
        local_device: the device of the variable on its worker, such as "/device:GPU:1"; "" for the device above.
    """

    device: str
    name: str
    local_device: str = ""

    def handle(self, dtype: tf.DType = tf.float32, shape: tf.TensorShape | list[int] | None = None) -> tf.Tensor:
        """Returns the handle of the variable, which need not exist yet."""
        with tf.device(self.device), tf.device(self.local_device or self.device):
            return tf.raw_ops.VarHandleOp(dtype=dtype, shape=tf.TensorShape(shape), shared_name=self.name)

    def destroy(self) -> None:
        """Destroys the variable if it exists."""
        with tf.device(self.device), tf.device(self.local_device or self.device):
            tf.raw_ops.DestroyResourceOp(resource=self.handle(), ignore_lookup_error=True)


class OwnedVariables:
    """The remote variables of one owner.

    States of a variable: made (by `make`, or by a closure that assigns it) -> lost with its task -> made again (by
    `remake`, or by the next closure) -> destroyed.

    Threading: the main thread calls `make`, `remake` and `destroy`; any thread that traces calls `add_graph`.

    Args:
        destroy_all: a function that destroys variables on their tasks; if its second argument is true, it waits.
        worker_devices: the compute device of each worker.
    """

    def __init__(
        self, destroy_all: Callable[[frozenset[RemoteVariable], bool], None], worker_devices: list[str]
    ) -> None:
        self._destroy_all = destroy_all
        self._worker_devices = worker_devices
        # The initial values of the variables that `make` has made. Closures make the other variables themselves.
        self._initial_values: dict[RemoteVariable, Callable[[], tf.Tensor]] = {}
        self._variables: set[RemoteVariable] = set()

    def make(self, variable: RemoteVariable, initial_value: Callable[[], tf.Tensor]) -> None:
        """Makes a variable, and keeps its initial value for `remake`.

        Args:
            variable: the variable.
            initial_value: a function that computes the first value, on the device of the variable.
        """
        self._variables.add(variable)
        self._initial_values[variable] = initial_value
        _assign(variable, initial_value)

    def add(self, variable: RemoteVariable) -> None:
        """Takes ownership of a variable that a closure makes when it runs."""
        self._variables.add(variable)

    def remake(self, device: str) -> None:
        """Makes the variables of a device again, after a new process without variables has replaced its task."""
        for variable, initial_value in self._initial_values.items():
            if variable.device == device:
                _assign(variable, initial_value)

    def add_graph(self, graph: tf.Graph, prefix: str = _PREFIX) -> None:
        """Takes ownership of the variables that the graph of a closure names. The closure makes them when it runs.

        Args:
            graph: the graph of the closure. A variable that it does not place on a server is on each worker that runs
                the closure.
            prefix: how the names of the variables begin.
        """
        for operation in operations_of(graph):
            if operation.type == "VarHandleOp":
                name = operation.get_attr("shared_name").decode()
                if name.startswith(prefix):
                    on_server = devices.is_of_job(operation.device, jobs.PS)
                    if on_server:
                        self._variables.add(RemoteVariable(operation.device, name))
                    else:
                        places = self._worker_devices
                        self._variables.update(RemoteVariable(place, name, operation.device) for place in places)

    def destroy_ending_in(self, suffix: str) -> None:
        """Destroys the variables whose names end in `suffix`, and waits for it. A closure may make them again.

        No closure that uses them may be under way.
        """
        chosen = frozenset(variable for variable in self._variables if variable.name.endswith(suffix))
        if chosen:
            self._destroy_all(chosen, True)

    def __iter__(self) -> Iterator[RemoteVariable]:
        """Iterates over the variables of the owner."""
        # A copy, because a thread that traces may add variables meanwhile.
        return iter(tuple(self._variables))

    def destroy(self) -> None:
        """Begins to destroy the variables, and does not wait for it. A closure that still needs one makes it again."""
        variables = frozenset(self._variables)
        self._variables.clear()
        self._initial_values.clear()
        self._destroy_all(variables, False)


class RemoteVariables:
    """Makes owners of remote variables on the tasks of one strategy.

    Args:
        tasks: the strategy, which is held weakly. When it is collected, its tasks end together with their variables.

    Attributes:
        remakes: how often a device was given its variables again.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = weakref.ref(tasks)
        self._owned: weakref.WeakSet[OwnedVariables] = weakref.WeakSet()
        self.remakes = 0

    def remake(self, device: str) -> None:
        """Makes the variables of all owners on a device again, after its task was started again."""
        # First: whoever reads values beside this finds the count changed before it can read the new ones.
        self.remakes += 1
        for owned in list(self._owned):
            owned.remake(device)

    def make_owned(self, owner: object) -> OwnedVariables:
        """Returns an empty `OwnedVariables`, whose variables are destroyed some time after `owner` is collected."""
        # The lambda below must not hold the strategy, or its cluster would live as long as the owner.
        tasks = self._tasks
        alive = tasks()
        # The strategy itself makes this call, so it exists.
        assert alive is not None
        owned = OwnedVariables(lambda variables, wait: _destroy(tasks(), variables, wait), alive.worker_devices)
        background.finalize(owner, owned.destroy)
        self._owned.add(owned)
        return owned


def _assign(variable: RemoteVariable, initial_value: Callable[[], tf.Tensor]) -> None:
    """Assigns the initial value on the device of the variable, which makes the variable."""
    with tf.device(variable.device):
        value = initial_value()
        tf.raw_ops.AssignVariableOp(resource=variable.handle(value.dtype, value.shape), value=value)


def operations_of(graph: tf.Graph) -> Iterator[tf.Operation]:
    """Yields the operations of a graph and of its functions, which are the bodies of loops and branches."""
    # A function may be used several times, and functions may call each other.
    graphs, seen = [graph], set()
    while graphs:
        one = graphs.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield from one.get_operations()
        inner = (getattr(function, "graph", None) for function in one._functions.values())
        graphs += [found for found in inner if found is not None]


def _destroy(tasks: Tasks | None, variables: Iterable[RemoteVariable], wait: bool) -> None:
    """Destroys variables in the threads of their tasks and does not wait for them; or in this thread."""
    if tasks is None:
        return
    workers = tasks.worker_devices
    # By the device of a worker, or by "" for all servers.
    by_worker: dict[str, list[RemoteVariable]] = {}
    for variable in variables:
        by_worker.setdefault(variable.device if variable.device in workers else "", []).append(variable)
    for device, there in by_worker.items():
        try:
            thread = tasks.pool.threads[workers.index(device)] if device else tasks.server_pool.threads[0]
        # The strategy has ended, and so have its tasks with their variables.
        except TfpsError:
            return
        destroy = functools.partial(_destroy_in, thread, there)
        if wait:
            destroy()
        else:
            thread.run_later(destroy)


def _destroy_in(thread: TaskThread, variables: Sequence[RemoteVariable]) -> None:
    """Destroys variables in the thread of their task. It never raises."""

    def destroy() -> list[tf.Tensor]:
        for variable in variables:
            variable.destroy()
        # An operation without a result is sent and not waited for, and a closure could overtake it on its way. A task
        # runs operations in the order in which they were sent, so one with a result tells that all are done.
        found = []
        for last in {variable.device: variable for variable in variables}.values():
            with tf.device(last.device):
                found.append(tf.raw_ops.VarIsInitializedOp(resource=last.handle()))
        return found

    try:
        thread.call(destroy)
    # If the task is dead, its variables are gone too, and the next call on the task reports the death.
    except Exception as error:
        _LOG.debug("%d variables were not destroyed, %s among them: %s", len(variables), variables[0], error)
