"""`Pools`: the threads of the chief that run work on the tasks of a strategy.

Threading: any thread may ask for a pool. Ownership: a pool ends with the connection. Cost: a thread for each task, from
the first use of its pool on, because a program that only saves or plans needs no threads.
"""

import functools
import weakref
from collections.abc import Callable, Sequence

from tfps.cluster import devices
from tfps.cluster.connection import Connection
from tfps.cluster.faults import translate
from tfps.runtime.gate import Gate
from tfps.runtime.losses import Losses
from tfps.runtime.pool import WorkerPool
from tfps.runtime.watch import Watch


class Pools:
    """The pools of one strategy.

    Args:
        connection: the connection to the cluster.
        losses: the workers that were lost.
        gate: what holds work back while a task is replaced.
        worker_devices: the compute device of each worker.
        num_servers: the number of parameter servers.
    """

    def __init__(
        self, connection: Connection, losses: Losses, gate: Gate, worker_devices: Sequence[str], num_servers: int
    ) -> None:
        self._connection, self._losses, self._gate = connection, losses, gate
        self._worker_devices, self._num_servers = list(worker_devices), num_servers
        self._workers: WorkerPool | None = None
        self._servers: WorkerPool | None = None
        self._each_server: WorkerPool | None = None

    @property
    def workers(self) -> WorkerPool:
        """The pool that runs closures on the workers."""
        self._connection.check()
        if self._workers is None:
            self._workers = self.make(self._worker_devices, self._losses.translate)
            watch = Watch(self._connection.cluster, self._workers.threads)
            self._losses.watch = watch
            self._connection.add_pool(watch.close)
        return self._workers

    @property
    def servers(self) -> WorkerPool:
        """The pool that runs functions whose operations go to all servers."""
        # Its device is the chief, because only the chief is connected to all servers.
        self._connection.check()
        if self._servers is None:
            cluster = self._connection.cluster
            self._servers = self.make([devices.CHIEF], lambda _, error: translate(error, cluster))
        return self._servers

    @property
    def each_server(self) -> WorkerPool:
        """The pool that runs functions on each server by itself: saving and restoring of rows."""
        self._connection.check()
        if self._each_server is None:
            cluster, servers = self._connection.cluster, [devices.server(index) for index in range(self._num_servers)]
            self._each_server = self.make(servers, lambda _, error: translate(error, cluster))
        return self._each_server

    def make(self, pool_devices: list[str], translate_error: Callable[[int, Exception], Exception]) -> WorkerPool:
        """Makes a pool with a thread for each device, which ends with the connection."""
        # The threads hold their arguments. A reference to the connection would keep it and the strategy alive for ever.
        check = functools.partial(_check, weakref.ref(self._connection), self._losses)
        pool = WorkerPool(pool_devices, translate_error, check, self._gate)
        self._connection.add_pool(pool.close)
        return pool


def _check(connection: "weakref.ref[Connection]", losses: Losses) -> None:
    """Does what `ParameterServerStrategy.check` does, for threads that must not keep the connection alive."""
    alive = connection()
    if alive is not None:
        alive.check()
    losses.check()
