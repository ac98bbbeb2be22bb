"""Workers that are gone, and who does their work. A parameter server that is gone ends the program: it held variables.

Threading: any thread; a loss is noted once.
"""

import logging
import threading
from typing import Any

import tensorflow as tf

from tfps import jobs
from tfps.cluster.faults import translate
from tfps.cluster.local import LocalCluster
from tfps.errors import ClusterError, TaskDiedError

_LOG = logging.getLogger("tfps")


class WorkerLostError(ClusterError):
    """A worker is gone, others are left, and the call that says so has to be made again.

    It may have been on another worker: TensorFlow reports what fails on the way to one task in any call that follows.
    """


class Losses:
    """What is left of the workers of a cluster.

    Args:
        num_workers: that there were.
        cluster: the cluster, for messages; of an embedded one the processes are looked at.
    """

    def __init__(self, num_workers: int, cluster: Any) -> None:
        self._num_workers, self._cluster = num_workers, cluster
        self._lost: set[int] = set()
        self._lock = threading.Lock()

    def host_of(self, shard: int) -> int:
        """The worker that does the work of worker `shard`: itself, unless it is gone."""
        with self._lock:
            left = [worker for worker in range(self._num_workers) if worker not in self._lost]
        return shard if shard in left else left[shard % len(left)]

    def check(self) -> None:
        """Looks at the processes of an embedded cluster.

        Raises:
            TaskDiedError: a parameter server has ended, or the last worker.
        """
        if not isinstance(self._cluster, LocalCluster):
            return
        try:
            self._cluster.check()
        except TaskDiedError as died:
            if not self._record_loss(died):
                raise

    def translate(self, worker: int, error: Exception) -> Exception:
        """The error of ours for one of TensorFlow that a call on a worker ended with."""
        if worker in self._lost and isinstance(error, tf.errors.OpError):
            return WorkerLostError(f"worker {worker} is gone", (jobs.WORKER, worker))
        ours = translate(error, self._cluster)
        if isinstance(ours, ClusterError) and self._record_loss(ours):
            return WorkerLostError(str(ours), ours.task)
        return ours

    def _record_loss(self, error: ClusterError) -> bool:
        """Notes that the worker to blame is gone, if it is one and not the last; returns whether it is."""
        job, worker = error.task or ("", 0)
        with self._lock:
            if job != jobs.WORKER or len(self._lost | {worker}) == self._num_workers:
                return False
            known = worker in self._lost
            self._lost.add(worker)
        if not known:
            if isinstance(self._cluster, LocalCluster):
                self._cluster.remove_task(jobs.WORKER, worker)
            _LOG.warning(
                "the other workers go on without worker %d: %s. Another worker takes over its input shard and repeats "
                "the steps that were under way; each update counts once.",
                worker,
                error.summary.rstrip("."),
            )
        return True
