"""`Losses`: records which workers are lost, and which other workers do their work.

The loss of a parameter server is different: it ends the program, because the server's variables are lost.

Threading: any thread. A loss is recorded and logged once.
"""

import logging
import threading

import tensorflow as tf

from tfps import jobs
from tfps.cluster.faults import Cluster, translate
from tfps.cluster.local import LocalCluster
from tfps.errors import ClusterError, TaskDiedError

_LOG = logging.getLogger("tfps")


class WorkerLostError(ClusterError):
    """A worker is lost, other workers remain, and the caller must repeat the call that raised this.

    The call may have been on another worker, because TensorFlow may report the failure of one task in a later call on
    any task.
    """


class Losses:
    """The lost workers of a cluster, and the workers that replace them.

    Args:
        num_workers: the number of workers at the start.
        cluster: the cluster. Messages describe it; if it is an embedded one, `check` looks at its processes.
        needs_all: why the workers cannot continue without one of them, a sentence; empty if they can.
    """

    def __init__(self, num_workers: int, cluster: Cluster, needs_all: str = "") -> None:
        self._num_workers, self._cluster, self._needs_all = num_workers, cluster, needs_all
        self._lost: set[int] = set()
        # Guards `_lost`, which the threads of all workers read and change.
        self._lock = threading.Lock()

    def host_of(self, shard: int) -> int:
        """Returns the worker that does the work of worker `shard`: that worker itself, unless it is lost."""
        with self._lock:
            alive = [worker for worker in range(self._num_workers) if worker not in self._lost]
        # Example: workers 1 and 2 of 4 are lost. Worker 3 does the work of worker 1, and worker 0 the work of worker 2.
        return shard if shard in alive else alive[shard % len(alive)]

    def check(self) -> None:
        """Checks the processes of an embedded cluster.

        Raises:
            TaskDiedError: a parameter server or the last worker has died.
        """
        # The chief has no access to the processes of another cluster; their failures show in calls.
        if not isinstance(self._cluster, LocalCluster):
            return
        try:
            self._cluster.check()
        except TaskDiedError as died:
            if not self._record_loss(died):
                raise self._explain(died).with_traceback(None) from None

    def translate(self, worker: int, error: Exception) -> Exception:
        """Translates an error of TensorFlow, with which a call on a worker failed, into an error of tfps."""
        # A call on a lost worker may fail in many ways. All of them mean the same.
        if worker in self._lost and isinstance(error, tf.errors.OpError):
            return WorkerLostError(f"worker {worker} is lost", (jobs.WORKER, worker))
        ours = translate(error, self._cluster, (jobs.WORKER, worker))
        if isinstance(ours, ClusterError) and self._record_loss(ours):
            return WorkerLostError(str(ours), ours.task)
        return self._explain(ours) if isinstance(ours, ClusterError) else ours

    def _explain(self, error: ClusterError) -> ClusterError:
        """Adds to the error of a worker why the others do not continue."""
        if not self._needs_all or (error.task or ("", 0))[0] != jobs.WORKER or str(error).startswith(self._needs_all):
            return error
        return type(error)(f"{self._needs_all} {error}", error.task, f"{self._needs_all} {error.summary}")

    def _record_loss(self, error: ClusterError) -> bool:
        """Records that the task of an error is lost, if it is a worker and not the last one. Returns whether it is."""
        job, worker = error.task or ("", 0)
        if self._needs_all:
            return False
        with self._lock:
            if job != jobs.WORKER or len(self._lost | {worker}) == self._num_workers:
                return False
            known = worker in self._lost
            self._lost.add(worker)
        # Outside the lock, because the other threads need not wait while the task is removed.
        if not known:
            if isinstance(self._cluster, LocalCluster):
                self._cluster.remove_task(jobs.WORKER, worker)
            _LOG.warning(
                "the other workers continue without worker %d: %s. Another worker takes over its input shard and "
                "repeats the steps that were under way; each update counts once.",
                worker,
                error.summary.rstrip("."),
            )
        return True
