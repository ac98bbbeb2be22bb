"""Starts, watches and stops the servers of one cluster on this machine.

Threading: every method may be called from any thread; one lock guards the state. Ownership: the group's processes
belong to the process that called `launch` and end with it for any reason. A fork of that process neither stops them nor
keeps them alive. The zygote that forks them also serves the program's other clusters and outlives the group.
Cost: for the first cluster an import of TensorFlow in another process, then about 40 ms per server; `check` is one
non-blocking read.

States: new -> launched (`launch`) -> up (`wait`) -> stopped (`stop`, or a failed `wait`). There is no way back.
States of a server: up -> ended -> due (`start_again`) -> starting -> up. One that dies while it starts is due again,
until its budget is used up.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import threading
import time
from collections.abc import Sequence

from tfps import env, jobs
from tfps.cluster import logs, tf_logging
from tfps.cluster.endpoints import Endpoint
from tfps.cluster.restarts import Restarts
from tfps.cluster.zygote_link import Event, ZygoteLink, current_link, server_environment
from tfps.errors import ClusterError, ClusterTimeoutError, ServerLostError, TaskDiedError
from tfps.progress import progress

_STOP_S = 5.0
_POLL_S = 0.1
_SLACK_S = 4.0


@dataclasses.dataclass(frozen=True)
class TaskOrder:
    """The description of a server to start.

    Args:
        job: "ps" or "worker".
        index: position in the job, from 0.
        listen: the "host:port" to listen at; for port 0 the system picks a port.
        log_path: the file that its output is appended to.
        threads: compute threads of one op; 0 for one per core.
        cpu_devices: its logical CPU devices.
        metrics_port: the port of its metrics; 0 for none.
    """

    job: str
    index: int
    listen: str
    log_path: str
    threads: int = 0
    cpu_devices: int = 1
    metrics_port: int = 0

    @property
    def name(self) -> str:
        """The task's name in messages and logs: "worker 0"."""
        return f"{self.job} {self.index}"


@dataclasses.dataclass(frozen=True)
class Task:
    """A running server.

    Args:
        order: the order that it was started by.
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
    """The servers of one cluster, as processes of this machine.

    Args:
        orders: one order for each server.
        log_dir: an existing directory for the logs of the servers.
        temporary: whether `log_dir` is removed when the group ends. It stays if a server died.
    """

    def __init__(self, orders: Sequence[TaskOrder], log_dir: str, temporary: bool) -> None:
        self._orders = {(order.job, order.index): order for order in orders}
        self._log_dir, self._temporary = log_dir, temporary
        # Guards all fields below.
        self._lock = threading.RLock()
        self._link: ZygoteLink | None = None
        # The group's key at the link.
        self._key = -1
        # The id of the process that launched the group.
        self._owner = 0
        # The moment of the launch, by `time.monotonic`.
        self._launched_s = 0.0
        self._up: dict[tuple[str, int], Task] = {}
        # The exit status of each server that ended, in the order of their ends.
        self._ended: dict[tuple[str, int], int] = {}
        self._removed: set[tuple[str, int]] = set()
        self._restarts = Restarts()
        # The second, by `time.monotonic`, at which each server that has ended is to start again.
        self._due: dict[tuple[str, int], float] = {}
        # The servers that were requested again and have not started yet.
        self._starting: set[tuple[str, int]] = set()
        # The servers that `kill` has killed and whose end is not reported yet.
        self._killed: set[tuple[str, int]] = set()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The servers that have started, in the order of `orders`."""
        with self._lock:
            return tuple(self._up[key] for key in self._orders if key in self._up)

    @property
    def orders(self) -> tuple[TaskOrder, ...]:
        """The orders, as given to the constructor."""
        return tuple(self._orders.values())

    @property
    def running(self) -> bool:
        """Whether this process has launched the group and not stopped it."""
        with self._lock:
            return self._link is not None and self._owner == os.getpid()

    def launch(self) -> None:
        """Starts the processes without waiting for them. Does nothing if they were started before."""
        with self._lock:
            if self._link is not None:
                return
            self._owner, self._launched_s = os.getpid(), time.monotonic()
            # The zygote may be older than this cluster, so it gets the environment as it is now.
            link = current_link()
            orders = [dataclasses.asdict(order) for order in self._orders.values()]
            self._key = link.start(orders, server_environment(), self._log_dir, self._temporary)
            self._link = link

    def wait(self, timeout_s: float) -> None:
        """Waits until every server is up.

        Args:
            timeout_s: the limit, counted from `launch`.

        Raises:
            ClusterTimeoutError: a server did not start in time; the others are stopped.
            TaskDiedError: a server ended instead; the others are stopped.
        """
        try:
            # `check` comes first: that a server died says more than that it did not start in time.
            with progress("starting servers", len(self._orders), "servers") as bar:
                while not self.is_up:
                    self._read_events(_POLL_S)
                    self.check()
                    self.check_in_time(timeout_s)
                    bar.set(len(self._up))
        except BaseException:
            link = self._link
            self.stop()
            if link is not None:
                # The zygote itself may be broken, and it holds 250 MB. A later cluster starts another.
                link.end_if_unused()
            raise

    @property
    def is_up(self) -> bool:
        """Whether every server has started, even if some have ended since."""
        with self._lock:
            return len(self._up) == len(self._orders)

    def check_in_time(self, timeout_s: float) -> None:
        """Raises `ClusterTimeoutError` if a server has not started `timeout_s` seconds after `launch`."""
        if not self.is_up and time.monotonic() - self._launched_s > timeout_s:
            raise ClusterTimeoutError(self._describe_missing(timeout_s))

    def check(self) -> None:
        """Raises `TaskDiedError`, with the tail of the log, if a server or the zygote that forked them has died."""
        with self._lock:
            self._read_events(0)
            # The server that ended first is reported: others may have ended because of it.
            for key, status in self._ended.items():
                if key not in self._removed:
                    tf_logging.quieten()
                    raise self._make_death_error(self._orders[key], status)
            if self._link is not None and self._link.closed:
                tf_logging.quieten()
                raise TaskDiedError(
                    "The process that forks the servers of this machine ended, and its servers ended with it. The last "
                    f"lines of its log {self._link.log_path}:\n{self._link.tail()}"
                )

    def remove_task(self, job: str, index: int) -> None:
        """Makes `check` ignore the end of this server from now on."""
        with self._lock:
            self._removed.add((job, index))

    def start_again(self, job: str, index: int) -> bool:
        """Starts a server that has ended again, at its address, perhaps after a pause. `check` then ignores its end.

        Returns at once; `is_back` says when the server is up.

        Returns:
            Whether it will start; False if its budget of restarts is used up.
        """
        with self._lock:
            key = (job, index)
            self._read_events(0)
            # One that runs has only lost its connection.
            if key not in self._ended or key in self._due or key in self._starting:
                return True
            start = self._restarts.next_start(key)
            if start is None:
                return False
            self._removed.add(key)
            self._due[key] = start
            self._start_due()
            return True

    def is_back(self, job: str, index: int) -> bool:
        """Returns whether a server that was to start again is up."""
        with self._lock:
            self._read_events(0)
            key = (job, index)
            return key in self._up and key not in self._ended and key not in self._killed

    @property
    def ended(self) -> tuple[tuple[str, int], ...]:
        """The job and index of each server that has ended and not started again."""
        with self._lock:
            self._read_events(0)
            return tuple(key for key in self._ended if key not in self._removed)

    def is_coming(self, job: str, index: int) -> bool:
        """Returns whether a server is about to start again."""
        with self._lock:
            self._read_events(0)
            return (job, index) in self._due or (job, index) in self._starting

    @property
    def restart_budget(self) -> str:
        """The budget of restarts of one server, for messages."""
        return self._restarts.describe()

    def kill(self, job: str, index: int) -> None:
        """Kills a server that hangs; its end is then found as any other."""
        with self._lock:
            task = self._up.get((job, index))
            if self._link is not None and task is not None and (job, index) not in self._ended:
                self._killed.add((job, index))
                self._link.kill(self._key, task.pid)

    def _start_due(self) -> None:
        """Requests the servers whose pause is over."""
        now = time.monotonic()
        for key in [key for key, second in self._due.items() if second <= now]:
            del self._due[key]
            if self._link is not None and key in self._up:
                # The others know its address, so it must be the same again.
                self._orders[key] = dataclasses.replace(self._orders[key], listen=str(self._up[key].endpoint))
                self._starting.add(key)
                self._link.start_again(self._key, dataclasses.asdict(self._orders[key]))

    def may_remove_task(self, job: str, index: int) -> bool:
        """Returns whether others can do the work of a task.

        They can do a worker's work, once all servers have started and while another worker lives.
        """
        with self._lock:
            others = [
                key for key in self._up if key[0] == jobs.WORKER and key not in self._ended and key != (job, index)
            ]
            return job == jobs.WORKER and self.is_up and bool(others)

    def stop(self) -> None:
        """Kills every server and waits until they are gone. Does nothing in a fork or if they were stopped before."""
        with self._lock:
            if not self.running:
                return
            # Cleared first: after a stop that failed half way the zygote may no longer know the group.
            link, self._link = self._link, None
            assert link is not None
            if not link.stop(self._key, _STOP_S):
                # The zygote hangs, so it has not reaped the servers, and no other process can have their ids.
                self._kill_servers()
            # The zygote removes the logs, too, except when it was killed or was still importing TensorFlow.
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
            # The link returns the events of this group and keeps those of the other groups.
            for event in self._link.events(self._key, timeout_s):
                self._record(event)
            self._start_due()

    def _record(self, event: Event) -> None:
        key = (event.get("job", ""), event.get("index", -1))
        if event["event"] == "started":
            self._up[key] = Task(self._orders[key], event["pid"], Endpoint.at(event["address"]))
            if self._link is not None:
                # A little more than the limit, so that whoever can name the task does it first.
                limit_s = env.silence_limit_s() + _SLACK_S
                self._link.watch(self._key, event["pid"], self._up[key].endpoint.dial, limit_s)
            self._starting.discard(key)
            self._ended.pop(key, None)
            self._removed.discard(key)
        elif event["event"] == "ended":
            again = key in self._starting
            self._starting.discard(key)
            self._killed.discard(key)
            self._ended[key] = event["status"]
            # Its port may still be taken for a moment, by a connection of another program.
            if again and (start := self._restarts.next_start(key)) is not None:
                self._due[key] = start

    def _describe_missing(self, timeout_s: float) -> str:
        missing = [order for key, order in self._orders.items() if key not in self._up]
        names = ", ".join(order.name for order in missing)
        path = missing[0].log_path
        if self._link is not None and not os.path.exists(path):
            # The server has not been forked yet, so the zygote's log is the one to read.
            path = self._link.log_path
        return (
            f"{names} did not come up within {timeout_s:g} s (TFPS_START_TIMEOUT_S); the others were stopped. The last "
            f"lines of its log {path}:\n{logs.tail(path)}"
        )

    def _make_death_error(self, order: TaskOrder, status: int) -> TaskDiedError:
        task = self._up.get((order.job, order.index))
        process = f" (process {task.pid} at {task.endpoint})" if task else ""
        what = f"{order.name}{process} ended {logs.describe_status(status)}"
        message = f"{what}. The last lines of its log {order.log_path}:\n{logs.tail(order.log_path)}"
        summary = f"{what}. Its log: {order.log_path}"
        if order.job == jobs.PS:
            return ServerLostError(message, (order.index,), summary)
        return TaskDiedError(message, (order.job, order.index), summary)


def require_running(group: ServerGroup | None, what: str) -> ServerGroup:
    """Returns the group, or raises `ClusterError` if there is none.

    Args:
        group: the group of a cluster; None if the cluster is not started.
        what: the method that needs the group, for the message.
    """
    if group is None:
        raise ClusterError(f"`{what}` needs a started cluster: call `start()` first.")
    return group
