"""Named variables on other tasks that are no Keras variables, and who owns them.

Examples: the copies of dense variables that a worker trains on, the ledger of pushes on a server, the messages that
wait there for a synchronous update. A graph finds each by its name on its task, and so nothing frees it by itself.
Here every one has an owner. When the owner is collected, or closes, its variables are destroyed.

Ownership: the registry of a strategy has the tasks; an owner's `OwnedVariables` has the names. Iterators are not here:
they have no names, and go with the epoch that reads them (`tfps.inputs.iterators`).
Threading: owners are collected in any thread, in the midst of anything. What they leave is destroyed by the thread that
leads the task, between two closures, as another model may share a layer and so a copy.
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
"""The names of all variables here begin with it; user code may name others."""


class Tasks(Protocol):
    """The tasks of a strategy."""

    @property
    def pool(self) -> WorkerPool:
        """Leads the workers."""
        ...

    @property
    def server_pool(self) -> WorkerPool:
        """Leads all servers, in one thread."""
        ...

    @property
    def worker_devices(self) -> list[str]:
        """One a worker."""
        ...


@dataclasses.dataclass(frozen=True)
class RemoteVariable:
    """A variable that graphs find by its name on a device.

    Args:
        device: of its task.
        name: which no other variable of the task has.
    """

    device: str
    name: str

    def handle(self, dtype: tf.DType = tf.float32, shape: tf.TensorShape | list[int] | None = None) -> tf.Tensor:
        """The resource; it need not exist yet."""
        with tf.device(self.device):
            return tf.raw_ops.VarHandleOp(dtype=dtype, shape=tf.TensorShape(shape), shared_name=self.name)

    def destroy(self) -> None:
        """Destroys the resource where it exists."""
        with tf.device(self.device):
            tf.raw_ops.DestroyResourceOp(resource=self.handle(), ignore_lookup_error=True)


class OwnedVariables:
    """The remote variables of one owner.

    States of a variable: made (by `make`, or by a closure that assigns it) -> lost with its task -> made again
    (`remake`, or by the next closure) -> destroyed.

    Threading: `make`, `remake` and `destroy` in the main thread; `add_graph` in any that traces.

    Args:
        run: destroys variables where they are.
        worker_devices: of the workers.
    """

    def __init__(self, run: Callable[[frozenset[RemoteVariable]], None], worker_devices: list[str]) -> None:
        self._run = run
        self._worker_devices = worker_devices
        self._made: dict[RemoteVariable, Callable[[], tf.Tensor]] = {}
        self._names: set[RemoteVariable] = set()

    def make(self, variable: RemoteVariable, initial_value: Callable[[], tf.Tensor]) -> None:
        """Makes a variable now, and keeps how, for `remake`.

        Args:
            variable: where it is.
            initial_value: computes its first value, on its device.
        """
        self._names.add(variable)
        self._made[variable] = initial_value
        _assign(variable, initial_value)

    def remake(self, device: str) -> None:
        """Makes the variables of a task again, which was replaced by a new process and has none of them."""
        for variable, initial_value in self._made.items():
            if variable.device == device:
                _assign(variable, initial_value)

    def add_graph(self, graph: tf.Graph) -> None:
        """Owns the variables that a closure names, which makes them itself when it runs.

        Args:
            graph: of the closure. What it places on no server is on whichever worker runs it.
        """
        for operation in _operations(graph):
            if operation.type == "VarHandleOp":
                name = operation.get_attr("shared_name").decode()
                if name.startswith(_PREFIX):
                    on_server = devices.is_of_job(operation.device, jobs.PS)
                    places = [operation.device] if on_server else self._worker_devices
                    self._names.update(RemoteVariable(device, name) for device in places)

    def __iter__(self) -> Iterator[RemoteVariable]:
        """The variables it owns."""
        return iter(tuple(self._names))

    def destroy(self) -> None:
        """Destroys the variables; returns before it is done. A closure that still needs one makes it again."""
        names = frozenset(self._names)
        self._names.clear()
        self._made.clear()
        self._run(names)


class RemoteVariables:
    """The owners of remote variables on the tasks of one strategy.

    Args:
        tasks: the strategy. It is held weakly; when it is collected its tasks end, and their variables with them.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = weakref.ref(tasks)

    def owned_by(self, owner: object) -> OwnedVariables:
        """The variables of an owner, none yet; they are destroyed some time after the owner is collected."""
        tasks = self._tasks
        alive = tasks()
        assert alive is not None  # it asks
        owned = OwnedVariables(lambda variables: _destroy(tasks(), variables), alive.worker_devices)
        background.finalize(owner, owned.destroy)
        return owned


def _assign(variable: RemoteVariable, initial_value: Callable[[], tf.Tensor]) -> None:
    with tf.device(variable.device):
        value = initial_value()
        tf.raw_ops.AssignVariableOp(resource=variable.handle(value.dtype, value.shape), value=value)


def _operations(graph: tf.Graph) -> Iterator[tf.Operation]:
    """The operations of a graph and of the functions in it: bodies of loops, branches."""
    graphs, seen = [graph], set()
    while graphs:
        one = graphs.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield from one.get_operations()
        inner = (getattr(function, "graph", None) for function in one._functions.values())
        graphs += [found for found in inner if found is not None]


def _destroy(tasks: Tasks | None, variables: Iterable[RemoteVariable]) -> None:
    """Has the threads of the tasks destroy variables: each worker's its own, one thread those of all servers."""
    if tasks is None:
        return
    workers = tasks.worker_devices
    by_worker: dict[str, list[RemoteVariable]] = {}
    for variable in variables:
        by_worker.setdefault(variable.device if variable.device in workers else "", []).append(variable)
    for device, there in by_worker.items():
        try:
            thread = tasks.pool.threads[workers.index(device)] if device else tasks.server_pool.threads[0]
        except TfpsError:
            return  # the strategy has ended, and its tasks with it
        thread.run_later(functools.partial(_destroy_in, thread, there))


def _destroy_in(thread: TaskThread, variables: Sequence[RemoteVariable]) -> None:
    def destroy() -> tuple[()]:
        for variable in variables:
            variable.destroy()
        return ()

    try:
        thread.call(destroy)
    except Exception as error:  # if the task is dead its variables are gone, and whoever needs the task sees that
        _LOG.debug("%d variables were not destroyed, %s among them: %s", len(variables), variables[0], error)
