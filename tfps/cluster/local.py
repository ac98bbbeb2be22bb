"""The embedded cluster: parameter servers and workers as processes of this machine.

Threading: every method may be called from any thread. Ownership: the servers end when `stop` is called or when this
process ends for any reason. Cost: `start` takes about as long as an import of TensorFlow, which runs in another
process, so call `launch` first and do other work meanwhile.
"""

import dataclasses
import os
import tempfile
import threading
from types import TracebackType

from tfps import env, jobs
from tfps.checks import check_integer, check_number, check_string
from tfps.cluster.disconnect import disconnect
from tfps.cluster.logs import log_path
from tfps.cluster.ports import LOOPBACK
from tfps.cluster.processes import cores_each
from tfps.cluster.server_group import ServerGroup, Task, TaskOrder, require_running
from tfps.cluster.spec import ClusterSpec
from tfps.monitoring.metrics_port import task_ports


@dataclasses.dataclass(frozen=True)
class _Settings:
    """The arguments of a `LocalCluster`, checked."""

    num_ps: int
    num_workers: int
    start_timeout_s: float | None
    ps_threads: int | None
    worker_threads: int | None
    log_dir: str | None
    worker_devices: int

    def threads(self, job: str) -> int:
        """Returns the compute threads of each server; by default the servers of a job share the cores evenly."""
        chosen = self.ps_threads if job == jobs.PS else self.worker_threads
        return chosen or cores_each(self.count(job))

    def count(self, job: str) -> int:
        """Returns the number of tasks of a job."""
        return self.num_ps if job == jobs.PS else self.num_workers


def _check_threads(name: str, value: object) -> int | None:
    return None if value is None else check_integer(name, value, at_least=1, valid="None for the default")


def _check_seconds(name: str, value: object) -> float | None:
    return None if value is None else check_number(name, value, above=0, valid="None for the default")


def _check_directory(name: str, value: object) -> str | None:
    if value is None:
        return None
    # A pathlib.Path becomes a string, because the zygote receives it as JSON.
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    return check_string(name, path, valid="the path of a directory, or None for a temporary one")


class LocalCluster:
    """Parameter servers and workers as processes of this machine.

    The constructor starts nothing; `start`, which a strategy calls, starts the processes.

    Args:
        num_ps: parameter servers, at least 1.
        num_workers: workers, at least 1.
        start_timeout_s: seconds the servers may take to start; by default TFPS_START_TIMEOUT_S, else 60.
        ps_threads: compute threads of a parameter server; by default the cores divided by `num_ps`.
        worker_threads: compute threads of a worker; by default the cores divided by `num_workers`.
        log_dir: a directory for the log files, one for each task. The default is a temporary directory, which is
            removed when the cluster stops unless a server died.
        worker_devices: logical CPU devices of a worker. With `devices_per_worker=` of the strategy, more than one do
            on any machine what a worker with as many cards does; it is for tests, and not faster.

    Raises:
        ConfigError: an argument breaks its rule; nothing was started.
    """

    def __init__(
        self,
        num_ps: int = 1,
        num_workers: int = 2,
        *,
        start_timeout_s: float | None = None,
        ps_threads: int | None = None,
        worker_threads: int | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        worker_devices: int = 1,
    ) -> None:
        # Checks TFPS_START_TIMEOUT_S now, before any process has started.
        env.start_timeout_s()
        self._settings = _Settings(
            num_ps=check_integer("num_ps", num_ps, at_least=1),
            num_workers=check_integer("num_workers", num_workers, at_least=1),
            start_timeout_s=_check_seconds("start_timeout_s", start_timeout_s),
            ps_threads=_check_threads("ps_threads", ps_threads),
            worker_threads=_check_threads("worker_threads", worker_threads),
            log_dir=_check_directory("log_dir", log_dir),
            worker_devices=check_integer("worker_devices", worker_devices, at_least=1),
        )
        # Guards the three fields below.
        self._lock = threading.RLock()
        self._stops = 0
        self._group: ServerGroup | None = None
        self._spec: ClusterSpec | None = None

    @property
    def num_ps(self) -> int:
        """How many parameter servers there are."""
        return self._settings.num_ps

    @property
    def num_workers(self) -> int:
        """How many workers there are."""
        return self._settings.num_workers

    @property
    def worker_devices(self) -> int:
        """The number of logical CPU devices of each worker."""
        return self._settings.worker_devices

    @property
    def stops(self) -> int:
        """How often the cluster was stopped. A connection compares it to see that its servers are gone."""
        return self._stops

    @property
    def spec(self) -> ClusterSpec:
        """The addresses of the servers. It has no chief, whose port is picked when it connects.

        Raises:
            ClusterError: the cluster is not started.
        """
        require_running(self._group if self._spec else None, "spec")
        assert self._spec is not None
        return self._spec

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The running servers, parameter servers first, each with its pid, address and log path."""
        return self._group.tasks if self._group else ()

    def launch(self) -> None:
        """Starts the servers and returns at once; `start` waits until they listen."""
        with self._lock:
            if self._group is None:
                group = self._make_group()
                # The group is stored only after the launch, so that one that failed half way can be tried again.
                try:
                    group.launch()
                except BaseException:
                    group.stop()
                    raise
                self._group = group

    def start(self) -> None:
        """Starts the servers and waits until they listen. Does nothing if they already listen.

        Raises:
            ClusterTimeoutError: a server did not start in time; the message names it, and the others were stopped.
            TaskDiedError: a server ended instead.
        """
        with self._lock:
            if self._spec is not None:
                return
            # Read before the launch: the variable may have been changed since the constructor checked it.
            timeout_s = self._settings.start_timeout_s or env.start_timeout_s()
            self.launch()
            group = require_running(self._group, "start")
            try:
                group.wait(timeout_s)
                self._spec = _make_spec(group.tasks)
            except BaseException:
                # Processes that this call started must not survive it, even after a Ctrl-C.
                group.stop()
                self._group = None
                raise

    def check(self) -> None:
        """Raises `TaskDiedError` if a server has ended; the message has the server's name and the tail of its log."""
        require_running(self._group, "check").check()

    def remove_task(self, job: str, index: int) -> None:
        """Makes `check` ignore the end of this server from now on."""
        require_running(self._group, "remove_task").remove_task(job, index)

    def start_again(self, job: str, index: int) -> bool:
        """Starts a server that has ended again, at its address; `is_back` says when it is up.

        Returns:
            Whether it will start; False if it was started too often.
        """
        return require_running(self._group, "start_again").start_again(job, index)

    def is_back(self, job: str, index: int) -> bool:
        """Returns whether a server runs, maybe again."""
        return require_running(self._group, "is_back").is_back(job, index)

    @property
    def ended(self) -> tuple[tuple[str, int], ...]:
        """The job and index of each server that has ended and is not about to start again."""
        return require_running(self._group, "ended").ended

    def is_coming(self, job: str, index: int) -> bool:
        """Returns whether a server that has ended is about to start again."""
        return require_running(self._group, "is_coming").is_coming(job, index)

    @property
    def restart_budget(self) -> str:
        """How often a server is started again, for messages."""
        return require_running(self._group, "restart_budget").restart_budget

    def kill(self, job: str, index: int) -> None:
        """Kills a server that hangs."""
        require_running(self._group, "kill").kill(job, index)

    def stop(self) -> None:
        """Ends the servers. Does nothing if there are none; a later `start` starts new ones."""
        with self._lock:
            if self._group is not None:
                # A fork of this process must leave the servers alone: they belong to the parent.
                if self._spec is not None and self._group.running:
                    disconnect(self._spec)
                self._group.stop()
                self._stops += 1
            self._group = self._spec = None

    def __enter__(self) -> "LocalCluster":
        """Starts the servers."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the servers."""
        self.stop()

    def _make_group(self) -> ServerGroup:
        chosen = self._settings.log_dir
        if chosen is not None:
            os.makedirs(chosen, exist_ok=True)
        log_dir = chosen or tempfile.mkdtemp(prefix="tfps-")
        # With port 0 the system picks a free port when the server binds it, so nobody can take it in between.
        tasks = [(job, index) for job in (jobs.PS, jobs.WORKER) for index in range(self._settings.count(job))]
        orders = [
            TaskOrder(
                job,
                index,
                f"{LOOPBACK}:0",
                log_path(log_dir, job, index),
                self._settings.threads(job),
                self._settings.worker_devices if job == jobs.WORKER else 1,
                metrics_port,
            )
            for (job, index), metrics_port in zip(tasks, task_ports(len(tasks)), strict=True)
        ]
        return ServerGroup(orders, log_dir, temporary=chosen is None)


def _make_spec(tasks: tuple[Task, ...]) -> ClusterSpec:
    servers, workers = ([t.endpoint for t in tasks if t.order.job == job] for job in (jobs.PS, jobs.WORKER))
    return ClusterSpec(worker=tuple(workers), ps=tuple(servers))
