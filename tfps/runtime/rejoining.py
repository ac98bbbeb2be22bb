"""`Rejoining`: takes workers back in that were started again after they had died.

A lost worker is started again by the embedded cluster, by `tfps-launch`, or by a scheduler, at its address. The chief
then connects TensorFlow to it anew, between two calls, and its input shard returns to it. A worker that dies again and
again has a budget, so that a host that kills it does not delay the others for ever.

Threading: the thread of the training loop calls `look` and `wait_for_one`; a thread of its own looks for workers of
other machines.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection

import tensorflow as tf

from tfps import env, jobs
from tfps.cluster import reach
from tfps.cluster.local import LocalCluster
from tfps.cluster.spec import ClusterSpec
from tfps.cluster.task_update import update_tasks
from tfps.errors import ClusterError, ClusterTimeoutError
from tfps.runtime.gate import Gate
from tfps.runtime.losses import Losses
from tfps.runtime.waiting import Wait, call_within

_LOG = logging.getLogger("tfps")

_GATE_S = 60.0
"""Seconds to wait for the closures of the other workers, which must end before a worker can come back."""

_PROBE_EVERY_S = 1.0
"""Seconds between two looks for the workers of other machines."""

_LOOK_S = 0.05
"""Seconds between two looks while no worker is left."""


class Rejoining:
    """Takes lost workers back in.

    Args:
        losses: the workers that are lost.
        cluster: the cluster.
        gate: keeps calls away from the tasks.
        forget: drops what the chief keeps of things on a worker, by its number, because they have ended with it.
    """

    def __init__(
        self, losses: Losses, cluster: LocalCluster | ClusterSpec, gate: Gate, forget: Callable[[int], None]
    ) -> None:
        self._losses, self._cluster, self._gate, self._forget = losses, cluster, gate, forget
        # The workers that nobody starts again.
        self._given_up: set[int] = set()
        # The second, by `time.monotonic`, before which no other attempt is made.
        self._not_before = 0.0
        # The workers of other machines that answered the last time, and the thread that asks them.
        self._answering: frozenset[int] = frozenset()
        self._prober: threading.Thread | None = None
        self._busy = False

    def look(self) -> None:
        """Takes back the lost workers that are up again. Takes microseconds if there are none.

        Raises:
            ClusterError: no worker is left, and none came back in time.
        """
        # A call on a task may ask where to run another one: the gate cannot close while it is inside.
        if not self._losses.lost or self._busy or self._gate.has_passed():
            return
        self._busy = True
        try:
            self._take_back()
            if len(self._losses.lost) == self._losses.num_workers:
                self._wait_for_one()
        finally:
            self._busy = False

    def _wait_for_one(self) -> None:
        """Waits until one worker is back, because none is left."""
        limit_s = env.join_timeout_s()
        deadline = time.monotonic() + limit_s
        worker, why = self._losses.last
        _LOG.warning(
            "no worker is left. Training waits up to %.0f s (TFPS_JOIN_TIMEOUT_S) for one to come back. Lost last: %s",
            limit_s,
            why,
        )
        while len(self._losses.lost) == self._losses.num_workers:
            self._losses.check()
            if time.monotonic() > deadline or not self._may_come():
                raise ClusterTimeoutError(
                    f"all {self._losses.num_workers} workers are lost, and none came back within {limit_s:g} s "
                    f"(TFPS_JOIN_TIMEOUT_S). The last one was lost because: {why}",
                    (jobs.WORKER, worker),
                )
            time.sleep(_LOOK_S)
            self._take_back()

    def _may_come(self) -> bool:
        """Whether a lost worker may still come back."""
        return bool(set(self._losses.lost) - self._given_up)

    def _take_back(self) -> None:
        if time.monotonic() < self._not_before:
            return
        back = [
            worker for worker in sorted(self._losses.lost) if worker not in self._given_up and self._is_back(worker)
        ]
        if not back:
            return
        began = time.monotonic()
        absent = {(jobs.WORKER, worker) for worker in self._losses.lost if worker not in back}
        try:
            with self._gate.closed(Wait("the closures of the other workers to end", _GATE_S, self._losses.check)):
                self._connect(absent, _format(back))
                for worker in back:
                    self._forget(worker)
        except (tf.errors.OpError, ClusterError) as error:
            # It may have died again, or another task with it. That shows in the next call.
            self._not_before = time.monotonic() + _PROBE_EVERY_S
            _LOG.info("%s could not be taken back in yet: %s", _format(back), error)
            return
        for worker in back:
            lost_s = self._losses.restore(worker)
            _LOG.warning(
                "worker %d is back after %.1f s, %.1f s of which the other workers waited. It trains its input shard "
                "again.",
                worker,
                lost_s,
                time.monotonic() - began,
            )

    def _connect(self, absent: Collection[tuple[str, int]], names: str) -> None:
        """Connects TensorFlow to all tasks but the absent ones."""
        spec = self._cluster.spec if isinstance(self._cluster, LocalCluster) else self._cluster
        # If a task dies meanwhile, TensorFlow waits until it is up again: `check` has it started again.
        call_within(
            lambda: update_tasks(spec, absent),
            Wait(f"TensorFlow to connect to {names} anew", env.join_timeout_s(), self._losses.check),
        )

    def _is_back(self, worker: int) -> bool:
        if isinstance(self._cluster, LocalCluster):
            # It may have died once more since it was started.
            if not self._cluster.start_again(jobs.WORKER, worker):
                self._given_up.add(worker)
            return self._cluster.is_back(jobs.WORKER, worker)
        if self._prober is None or not self._prober.is_alive():
            # In a thread, because a host that is gone does not even refuse a connection.
            self._prober = threading.Thread(target=self._probe, daemon=True, name="tfps-find-workers")
            self._prober.start()
        return worker in self._answering

    def _probe(self) -> None:
        """Asks the lost workers of other machines whether they are up."""
        assert isinstance(self._cluster, ClusterSpec)
        endpoints = self._cluster.endpoints(jobs.WORKER)
        self._answering = frozenset(worker for worker in self._losses.lost if reach.answers(endpoints[worker].dial))
        time.sleep(_PROBE_EVERY_S)


def _format(workers: list[int]) -> str:
    return ", ".join(f"worker {worker}" for worker in workers)
