"""`Watch`: finds tasks that stand still while calls wait for them.

A task that has been silent for too long is killed, if it is a process of this machine, and then replaced as any other
that dies. The tasks of another machine cannot be killed from here: the call that waits fails instead.

Threading: a thread of its own, which looks only while a call has been running for some time. It ends with the pool.
"""

import logging
import threading
from collections.abc import Sequence

from tfps import env, jobs
from tfps.cluster.local import LocalCluster
from tfps.cluster.silence import Silence
from tfps.cluster.spec import ClusterSpec
from tfps.errors import ClusterError, ClusterTimeoutError, ServerLostError
from tfps.runtime.task_thread import TaskThread
from tfps.types import TaskKey

_LOG = logging.getLogger("tfps")

_LOOK_EVERY_S = 2.0
_LONG_CALL_S = 5.0
"""Seconds after which a call may wait for a task that stands still. Most closures are far shorter."""

_OTHERS_FIRST = 1.5
"""On other machines, whoever has started a task gets this much more time to replace it before calls fail."""


class Watch:
    """Looks for silent tasks.

    Args:
        cluster: the cluster.
        threads: the thread of each worker.

    Attributes:
        found: the error of a task of another machine that has been silent for too long; None if there is none.
    """

    def __init__(self, cluster: LocalCluster | ClusterSpec, threads: Sequence[TaskThread]) -> None:
        self._cluster, self._threads = cluster, threads
        is_local = isinstance(cluster, LocalCluster)
        self._silence = Silence(env.silence_limit_s() * (1.0 if is_local else _OTHERS_FIRST))
        self._closed = threading.Event()
        self.found: ClusterError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="tfps-watch")
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, soon."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(_LOOK_EVERY_S):
            waiting = [worker for worker, thread in enumerate(self._threads) if thread.running_s > _LONG_CALL_S]
            if waiting:
                try:
                    self._look(waiting)
                # The cluster is being stopped.
                except ClusterError as error:
                    _LOG.debug("the watch found no cluster: %s", error)

    def _look(self, waiting: Sequence[int]) -> None:
        """Looks at the workers whose calls take long, and at all servers, which any call may wait for."""
        spec = self._cluster.spec if isinstance(self._cluster, LocalCluster) else self._cluster
        tasks = [(jobs.PS, index, one.dial) for index, one in enumerate(spec.endpoints(jobs.PS))]
        tasks += [(jobs.WORKER, worker, spec.endpoints(jobs.WORKER)[worker].dial) for worker in waiting]
        for key in self._silence.look(tasks):
            self._end(key, next(address for *task, address in tasks if tuple(task) == key))

    def _end(self, key: TaskKey, address: str) -> None:
        why = (
            f"{key[0]} {key[1]} at {address} has not answered for {self._silence.limit_s:.0f} s (TFPS_SILENCE_LIMIT_S)"
        )
        if isinstance(self._cluster, LocalCluster):
            _LOG.warning("%s: it is killed.", why)
            self._cluster.kill(*key)
        elif key[0] == jobs.PS:
            self.found = ServerLostError(f"{why}.", (key[1],))
        else:
            self.found = ClusterTimeoutError(f"{why}, and a call waits for it.", key)
