"""The servers of one cluster on this machine: start, watch, stop.

Threading: every method may be called from any thread; one lock guards the state. Ownership: the group's processes
belong to the process that called `launch` and end with it, whatever ends it; a fork of that process neither stops
nor keeps them. The zygote that forks them serves the other clusters of the program too, and outlives the group.
Cost: for the first cluster an import of TensorFlow in a process beside this one, then about 40 ms a server; `check`
is one non-blocking read.

States: new -> launched (`launch`) -> up (`wait`) -> stopped (`stop`, a failed `wait`); none is ever left backwards.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import threading
import time
from collections.abc import Sequence

from tfps import jobs
from tfps.cluster import logs, tf_logging
from tfps.cluster.endpoints import Endpoint
from tfps.cluster.zygote_link import Event, ZygoteLink, current_link, server_environment
from tfps.errors import ClusterError, ClusterTimeoutError, TaskDiedError

_STOP_S = 5.0
_POLL_S = 0.1


@dataclasses.dataclass(frozen=True)
class TaskOrder:
    """A server to start.

    Args:
        job: "ps" or "worker".
        index: position in the job, from 0.
        listen: "host:port" to listen at; port 0 has the system pick one.
        log_path: the file its output is appended to.
        threads: compute threads of one op; 0 for one a core.
    """

    job: str
    index: int
    listen: str
    log_path: str
    threads: int = 0

    @property
    def name(self) -> str:
        """The task's name in messages and logs: "worker 0"."""
        return f"{self.job} {self.index}"


@dataclasses.dataclass(frozen=True)
class Task:
    """A server that is up.

    Args:
        order: what was asked for.
        pid: its process id.
        endpoint: the address it is bound to, with the port that the system picked.
    """

    order: TaskOrder
    pid: int
    endpoint: Endpoint

    @property
    def name(self) -> str:
        """The task's name in messages and logs: "worker 0"."""
        return self.order.name

    @property
    def log_path(self) -> str:
        """The file its output goes to."""
        return self.order.log_path


class ServerGroup:
    """The servers of `orders`, as processes of this machine.

    Args:
        orders: one a server.
        log_dir: an existing directory for the logs of the servers.
        temporary: whether `log_dir` is removed when the group ends, unless a server of it died.
    """

    def __init__(self, orders: Sequence[TaskOrder], log_dir: str, temporary: bool) -> None:
        self._orders = {(order.job, order.index): order for order in orders}
        self._log_dir, self._temporary = log_dir, temporary
        self._lock = threading.RLock()  # guards everything below
        self._link: ZygoteLink | None = None
        self._key = -1  # of this group, at the link
        self._owner = 0  # process id
        self._launched = 0.0  # time.monotonic()
        self._up: dict[tuple[str, int], Task] = {}
        self._ended: dict[tuple[str, int], int] = {}  # exit status
        self._removed: set[tuple[str, int]] = set()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The servers that came up, in the order asked for."""
        with self._lock:
            return tuple(self._up[key] for key in self._orders if key in self._up)

    @property
    def orders(self) -> tuple[TaskOrder, ...]:
        """What was asked for."""
        return tuple(self._orders.values())

    @property
    def running(self) -> bool:
        """Whether `launch` was called, and `stop` was not, in this process."""
        with self._lock:
            return self._link is not None and self._owner == os.getpid()

    def launch(self) -> None:
        """Starts the processes without waiting for them. Does nothing if they were started."""
        with self._lock:
            if self._link is not None:
                return
            self._owner, self._launched = os.getpid(), time.monotonic()
            # The log directory and the environment are of this moment; the zygote may be older.
            link = current_link()
            orders = [dataclasses.asdict(order) for order in self._orders.values()]
            self._key = link.start(orders, server_environment(), self._log_dir, self._temporary)
            self._link = link

    def wait(self, timeout_s: float) -> None:
        """Waits until every server is up.

        Args:
            timeout_s: the limit, counted from `launch`.

        Raises:
            ClusterTimeoutError: one is not up in time; the others are stopped.
            TaskDiedError: one ended instead; the others are stopped.
        """
        try:
            # `check` before the limit: a server that died is a better reason than one that is not up.
            while not self.is_up:
                self._read_events(_POLL_S)
                self.check()
                self.check_in_time(timeout_s)
        except BaseException:
            link = self._link
            self.stop()
            if link is not None:
                # The zygote may be what is wrong, and holds 250 MB. A later cluster starts another.
                link.end_if_unused()
            raise

    @property
    def is_up(self) -> bool:
        """Whether every server has come up (and maybe ended since)."""
        with self._lock:
            return len(self._up) == len(self._orders)

    def check_in_time(self, timeout_s: float) -> None:
        """Raises `ClusterTimeoutError` if a server is not up `timeout_s` after `launch`."""
        if not self.is_up and time.monotonic() - self._launched > timeout_s:
            raise ClusterTimeoutError(self._describe_missing(timeout_s))

    def check(self) -> None:
        """Raises `TaskDiedError` with the tail of its log if a server, or the process that forked them, is dead."""
        with self._lock:
            self._read_events(0)
            # The server that ended first is the one to blame: others may have ended because of it.
            for key, status in self._ended.items():
                if key not in self._removed:
                    tf_logging.quieten()
                    raise self._death_of(self._orders[key], status)
            if self._link is not None and self._link.closed:
                tf_logging.quieten()
                raise TaskDiedError(
                    "The process that holds the servers of this machine ended, and they with it. The last lines of "
                    f"its log {self._link.log_path}:\n{self._link.tail()}"
                )

    def remove_task(self, job: str, index: int) -> None:
        """`check` passes over the end of this server from now on."""
        with self._lock:
            self._removed.add((job, index))

    def may_remove_task(self, job: str, index: int) -> bool:
        """Whether others can do its work: a worker's, once all servers have come up, while another worker lives."""
        with self._lock:
            others = [
                key for key in self._up if key[0] == jobs.WORKER and key not in self._ended and key != (job, index)
            ]
            return job == jobs.WORKER and self.is_up and bool(others)

    def stop(self) -> None:
        """Kills every server and waits until they are gone. Does nothing in a fork, or if they were stopped."""
        with self._lock:
            if not self.running:
                return
            # Cleared first: if the stop fails half way it is not tried again on a group that is unknown by then.
            link, self._link = self._link, None
            assert link is not None
            if not link.stop(self._key, _STOP_S):
                # The zygote hangs, so it has not reaped them: their ids are still theirs.
                self._kill_servers()
            # The zygote removes them too; it does not where it was killed, or was still importing TensorFlow.
            if self._temporary and not self._ended:
                shutil.rmtree(self._log_dir, ignore_errors=True)

    def _kill_servers(self) -> None:
        for key, task in self._up.items():
            if key not in self._ended:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(task.pid, signal.SIGKILL)

    def _read_events(self, timeout_s: float) -> None:
        with self._lock:
            if self._link is None or not self.running:
                return
            # Of this group only: the link keeps the events of the others for them.
            for event in self._link.events(self._key, timeout_s):
                self._record(event)

    def _record(self, event: Event) -> None:
        key = (event.get("job", ""), event.get("index", -1))
        if event["event"] == "started":
            self._up[key] = Task(self._orders[key], event["pid"], Endpoint.at(event["address"]))
        elif event["event"] == "ended":
            self._ended[key] = event["status"]

    def _describe_missing(self, timeout_s: float) -> str:
        missing = [order for key, order in self._orders.items() if key not in self._up]
        names = ", ".join(order.name for order in missing)
        path = missing[0].log_path
        if self._link is not None and not os.path.exists(path):
            path = self._link.log_path  # it was not forked yet
        return (
            f"{names} did not come up within {timeout_s:g} s (TFPS_START_TIMEOUT_S); the others were stopped. The last "
            f"lines of its log {path}:\n{logs.tail(path)}"
        )

    def _death_of(self, order: TaskOrder, status: int) -> TaskDiedError:
        task = self._up.get((order.job, order.index))
        process = f" (process {task.pid} at {task.endpoint})" if task else ""
        what = f"{order.name}{process} ended {logs.describe_status(status)}"
        return TaskDiedError(
            f"{what}. The last lines of its log {order.log_path}:\n{logs.tail(order.log_path)}",
            (order.job, order.index),
            summary=f"{what}. Its log: {order.log_path}",
        )


def require_running(group: ServerGroup | None, what: str) -> ServerGroup:
    """The group, if it is there; `ClusterError` naming `what` was asked of a cluster that is not started."""
    if group is None:
        raise ClusterError(f"`{what}` needs a started cluster: call `start()` first.")
    return group
