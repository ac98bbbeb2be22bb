"""`Losses`: records which workers are lost, and which other workers do their work.

A lost worker may come back (`tfps.runtime.rejoining`). The loss of a parameter server is different, because the
server's variables are lost.

Threading: any thread. A loss is recorded and logged once.
"""

import logging
import threading
import time

import tensorflow as tf

from tfps import env, jobs
from tfps.cluster import reach
from tfps.cluster.faults import Cluster, translate
from tfps.cluster.local import LocalCluster
from tfps.cluster.restarts import RestartPolicy, Restarts
from tfps.cluster.spec import ClusterSpec
from tfps.errors import ClusterError, ServerLostError, TaskDiedError
from tfps.monitoring.record import JobRecord
from tfps.runtime.watch import Watch

_LOG = logging.getLogger("tfps")

_LOOK_S = 0.5
_SETTLE_S = 1.0
"""Seconds after which a server that stood still has done what had reached it before."""

_MOST_REPEATS = 100
"""Broken calls within ten minutes that are repeated. More have another cause than a server that stands still."""


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
        record: keeps the losses for those who watch the job; None for one of its own.
    """

    def __init__(
        self, num_workers: int, cluster: Cluster, needs_all: str = "", record: JobRecord | None = None
    ) -> None:
        self.num_workers, self._cluster, self._needs_all = num_workers, cluster, needs_all
        self.record = record or JobRecord()
        # How often calls may be repeated although no task has died.
        self._repeats = Restarts(RestartPolicy(most=_MOST_REPEATS))
        # Finds tasks that stand still. The strategy sets it together with its pool.
        self.watch: Watch | None = None
        # For each lost worker, the second when it was lost, and why.
        self._lost: dict[int, tuple[float, str]] = {}
        # Guards `_lost`, which the threads of all workers read and change.
        self._lock = threading.Lock()

    @property
    def lost(self) -> frozenset[int]:
        """The workers that are lost now."""
        # Read without the lock, as the usual case is that there are none.
        return frozenset(tuple(self._lost)) if self._lost else frozenset()

    @property
    def last(self) -> tuple[int, str]:
        """The worker that was lost last, and why."""
        with self._lock:
            worker = max(self._lost, key=lambda one: self._lost[one][0])
            return worker, self._lost[worker][1]

    def reason(self, worker: int) -> str:
        """Returns why a lost worker was lost."""
        with self._lock:
            return self._lost[worker][1]

    def restore(self, worker: int) -> float:
        """Records that a lost worker works again; returns for how many seconds it was lost."""
        with self._lock:
            lost_s = time.monotonic() - self._lost.pop(worker)[0]
        self.record.record_return(jobs.WORKER, worker)
        return lost_s

    def host_of(self, shard: int) -> int:
        """Returns the worker that does the work of worker `shard`: that worker itself, unless it is lost.

        One worker must be left; `Rejoining.look` waits for it.
        """
        with self._lock:
            alive = [worker for worker in range(self.num_workers) if worker not in self._lost]
        # Example: workers 1 and 2 of 4 are lost. Worker 3 does the work of worker 1, and worker 0 the work of worker 2.
        return shard if shard in alive else alive[shard % len(alive)]

    def check(self) -> None:
        """Checks the processes of an embedded cluster.

        Raises:
            TaskDiedError: a parameter server has died, or the last worker, and no worker comes back.
            ClusterError: a task of another machine stands still.
        """
        if self.watch is not None and (found := self.watch.found) is not None:
            raise found.with_traceback(None)
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
        broke_off = isinstance(ours, ServerLostError) and not ours.is_restarted and not self._needs_all
        if broke_off and isinstance(ours, ServerLostError) and self._wait_for_servers():
            _LOG.warning(
                "a call of worker %d broke off, but all servers live: it is repeated, and each update counts once. %s",
                worker,
                ours.summary,
            )
            return WorkerLostError(str(ours), ours.task)
        return self._explain(ours) if isinstance(ours, ClusterError) else ours

    def _wait_for_servers(self) -> bool:
        """Waits until all servers answer; returns whether they do, and so still have what they held.

        gRPC closes a connection whose other end has not answered for a minute, and the calls on it fail.
        """
        if self._repeats.next_start("") is None:
            return False
        cluster = self._cluster
        spec = cluster.spec if isinstance(cluster, LocalCluster) else cluster
        if not isinstance(spec, ClusterSpec):
            return False
        deadline = time.monotonic() + env.silence_limit_s()
        for endpoint in spec.endpoints(jobs.PS):
            while not reach.answers(endpoint.dial):
                # One that refuses is dead. One that says nothing may go on, or the watch kills it.
                if not reach.is_silent(endpoint.dial) or time.monotonic() > deadline:
                    return False
                time.sleep(_LOOK_S)
        # A server may still be busy with what had reached it. A repeated push must not meet the first one.
        time.sleep(_SETTLE_S)
        # One that was started again answers too.
        return not isinstance(cluster, LocalCluster) or not any(job == jobs.PS for job, _ in cluster.ended)

    def _explain(self, error: ClusterError) -> ClusterError:
        """Adds to the error of a worker why the others do not continue."""
        if not self._needs_all or (error.task or ("", 0))[0] != jobs.WORKER or str(error).startswith(self._needs_all):
            return error
        return type(error)(f"{self._needs_all} {error}", error.task, f"{self._needs_all} {error.summary}")

    def _record_loss(self, error: ClusterError) -> bool:
        """Records that the task of an error is lost, if it is a worker that others replace or that may come back."""
        job, worker = error.task or ("", 0)
        if self._needs_all or job != jobs.WORKER:
            return False
        why = error.summary.rstrip(".")
        with self._lock:
            known = worker in self._lost
            self._lost.setdefault(worker, (time.monotonic(), why))
        if not known:
            self.record.record_loss(jobs.WORKER, worker, why)
        # Outside the lock, because the other threads need not wait while the task is started.
        if not known and isinstance(self._cluster, LocalCluster):
            # If the process lives, only a connection broke. What it was doing must not go on beside the repeated steps.
            self._cluster.kill(jobs.WORKER, worker)
        after, comes = self._start_again(worker)
        if not comes and self.lost == frozenset(range(self.num_workers)) and not self._any_comes():
            return False
        # One that has died once more before it was taken back in was never said to be back.
        if known:
            return True
        _LOG.warning(
            "the other workers continue without worker %d: %s. Another worker takes over its input shard and "
            "repeats the steps that were under way; each update counts once. %s",
            worker,
            why,
            after,
        )
        return True

    def _start_again(self, worker: int) -> tuple[str, bool]:
        """Has a lost worker started again. Returns what to expect, for the log, and whether it may come back."""
        cluster = self._cluster
        if not isinstance(cluster, LocalCluster):
            # Whoever started it starts it again: `tfps-launch`, Kubernetes, SLURM or the user.
            return "It may come back at its address.", True
        if cluster.start_again(jobs.WORKER, worker):
            return "It is started again.", True
        cluster.remove_task(jobs.WORKER, worker)
        return f"It is not started again, after {cluster.restart_budget}.", False

    def _any_comes(self) -> bool:
        """Whether a lost worker of an embedded cluster is about to come back."""
        cluster = self._cluster
        return isinstance(cluster, LocalCluster) and any(
            cluster.is_coming(jobs.WORKER, worker) or cluster.is_back(jobs.WORKER, worker) for worker in self.lost
        )
