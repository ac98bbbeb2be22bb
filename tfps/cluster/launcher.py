"""Runs a program on a cluster of this machine, or as the one role that this process has in a larger one.

`run_local` takes over its process: it installs signal handlers and must be called in the main thread. The program runs
as the chief. Parameter servers and workers do not run it, because the workers of a single-client cluster run graphs,
not the user's Python. All processes end when the call returns, and also when this process is killed.
"""

import dataclasses
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from types import FrameType

from tfps import env, jobs
from tfps.cluster import logs, server
from tfps.cluster.chief_process import ChiefProcess
from tfps.cluster.endpoints import Endpoint
from tfps.cluster.ports import reserve_address
from tfps.cluster.processes import cores_each
from tfps.cluster.restarts import Restarts
from tfps.cluster.server_group import ServerGroup, TaskOrder
from tfps.cluster.silence import Silence
from tfps.cluster.spec import ClusterSpec
from tfps.cluster.terminal import Terminal
from tfps.cluster.tf_config import TaskConfig
from tfps.errors import ClusterError, ConfigError, TaskDiedError
from tfps.monitoring.metrics_port import check_free, check_settings, task_ports

_POLL_S = 0.1
_LOOK_EVERY_S = 2.0
_END_S = 2.0
_ON_PURPOSE = (0, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals after which a program is not started again; 0 is none. Others come from a fault, or from the system."""
_FAILED = 1


@dataclasses.dataclass(frozen=True)
class LaunchPlan:
    """A program and the cluster of this machine to run it on.

    Args:
        program: a Python file or a command, then its arguments.
        num_ps: parameter servers, at least 1.
        num_workers: workers, at least 1.
        log_dir: a directory for the log files, one for each task; None to keep none.

    Raises:
        ConfigError: there is no such program, or a count is below 1.
    """

    program: tuple[str, ...]
    num_ps: int = 1
    num_workers: int = 2
    log_dir: str | None = None

    def __post_init__(self) -> None:
        """Checks the fields before any process starts."""
        for name in ("num_ps", "num_workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1. Received: {getattr(self, name)}.")
        program_command(self.program)


class _Interrupted(BaseException):
    """A signal asked the launcher to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def program_command(program: Sequence[str]) -> list[str]:
    """Returns the command that runs a program: this Python for a .py file, the program itself for anything else.

    Raises:
        ConfigError: no program is given, or there is no such file or command.
    """
    if not program:
        raise ConfigError(
            "`program` must be given: the Python file, and its arguments. Received: none. See `tfps-launch --help`."
        )
    if program[0].endswith(".py"):
        if not os.path.isfile(program[0]):
            raise ConfigError(f"`program` must be a file that exists. Received: {program[0]!r}.")
        return [sys.executable, *program]
    if shutil.which(program[0]) is None:
        raise ConfigError(f"`program` must be a .py file or a command on the PATH. Received: {program[0]!r}.")
    return list(program)


def run_role(config: TaskConfig, program: Sequence[str]) -> None:
    """Turns this process into a task of a cluster: the chief runs the program, others serve. Does not return.

    Raises:
        ConfigError: the task is the chief and there is no such program.
        SystemExit: the server is done; see `tfps.cluster.server.serve`.
    """
    if config.task_type != jobs.CHIEF:
        server.serve(config)
    # The program replaces this process, so that signals, exit status and process id are the program's own.
    command = program_command(program)
    # As in `run_local`, the program learns its cluster from TF_CONFIG. Tasks of `mpirun` can agree on one only once.
    os.execvpe(command[0], command, os.environ | {"TF_CONFIG": config.to_json()})


def run_local(plan: LaunchPlan) -> int:
    """Runs the program as the chief of a new cluster on this machine, and ends the cluster with the program.

    A server that dies is started again at its address. A program that a signal ends is started again too, with new
    servers. Both have a budget, TFPS_MAX_RESTARTS.

    Returns:
        The program's exit status (128 + n if signal n ended it); 1 if a server failed; 128 + n if signal n stopped
        this process.

    Raises:
        ConfigError: TFPS_START_TIMEOUT_S is not a number of seconds, or metrics cannot be served; nothing was started.
        ClusterError: a port for metrics is in use; nothing was started.
    """
    timeout_s = env.start_timeout_s()
    _check_metrics(plan)
    terminal = Terminal()
    log_dir = _make_log_dir(plan.log_dir)
    # As in production, the program learns its cluster from TF_CONFIG: nothing in it depends on the launcher.
    config = TaskConfig(_reserve_cluster(plan), jobs.CHIEF, 0)
    job = _Job(plan, config, log_dir, terminal)
    handlers = _raise_on_signals()
    try:
        return job.run(timeout_s)
    except ClusterError as error:
        logs.say(f"error: {error}")
        return _FAILED
    except _Interrupted as interruption:
        return _interrupt(job.chief, interruption.number)
    finally:
        # A second Ctrl-C must not interrupt the cleanup: that would leave processes behind.
        _ignore_signals(handlers)
        job.end()
        terminal.close()
        _restore(handlers)


class _Job:
    """The processes of one job: the servers, and the program as their chief.

    Args:
        plan: the program and its cluster.
        config: the task of the chief.
        log_dir: an existing directory for the logs of the servers.
        terminal: shows all output.
    """

    def __init__(self, plan: LaunchPlan, config: TaskConfig, log_dir: str, terminal: Terminal) -> None:
        self._plan, self._config, self._log_dir, self._terminal = plan, config, log_dir, terminal
        self._group: ServerGroup | None = None
        self._restarts = Restarts()
        # Set when the servers of the current group are about to end.
        self._ending = threading.Event()
        self.chief: ChiefProcess | None = None

    def run(self, timeout_s: float) -> int:
        """Runs the program until it ends by itself; returns its exit status."""
        self._start(follow=True)
        # Only logs in a directory of the user go on where they were.
        follow_again = self._plan.log_dir is None
        while True:
            assert self.chief is not None and self._group is not None
            status = _supervise(self.chief, self._group, timeout_s)
            if self.chief.killed_by in _ON_PURPOSE:
                return status
            why = f"{jobs.CHIEF} 0 was ended by {signal.Signals(self.chief.killed_by).name}"
            start = self._restarts.next_start(jobs.CHIEF)
            if start is None:
                logs.say(f"error: the program is not started again, after {self._restarts.describe()}: {why}")
                return status
            logs.say(f"the program is started again, with new servers: {why}")
            time.sleep(max(0.0, start - time.monotonic()))
            self.end()
            self._log_dir = _make_log_dir(self._plan.log_dir)
            self._start(follow=follow_again)

    def _start(self, follow: bool) -> None:
        orders = _make_orders(self._config.cluster, self._log_dir)
        # New servers each time: those of a program that is gone would keep its variables for ten minutes.
        self._group = ServerGroup(orders, self._log_dir, temporary=self._plan.log_dir is None)
        self._group.launch()
        chief_log = logs.log_path(self._log_dir, jobs.CHIEF, 0) if self._plan.log_dir else None
        self.chief = ChiefProcess(program_command(self._plan.program), self._config, self._terminal, chief_log)
        if follow:
            _show(self._group, self._terminal)
        self._ending = threading.Event()
        threading.Thread(target=_kill_silent, args=(self._group, self._ending), daemon=True).start()

    def end(self) -> None:
        """Ends all processes."""
        self._ending.set()
        if self.chief is not None:
            self.chief.end()
        if self._group is not None:
            self._group.stop()


def _kill_silent(group: ServerGroup, ending: threading.Event) -> None:
    """Kills servers that stand still for too long, until `ending` is set. They are then started again."""
    silence = Silence(env.silence_limit_s())
    while not ending.wait(_LOOK_EVERY_S):
        tasks = [(task.order.job, task.order.index, task.endpoint.dial) for task in group.tasks]
        for job, index in silence.look(tasks):
            logs.say(f"{job} {index} has not answered for {silence.limit_s:g} s (TFPS_SILENCE_LIMIT_S): it is killed")
            group.kill(job, index)


def _make_log_dir(log_dir: str | None) -> str:
    if log_dir is None:
        return tempfile.mkdtemp(prefix="tfps-")
    os.makedirs(log_dir, exist_ok=True)
    return log_dir


def _reserve_cluster(plan: LaunchPlan) -> ClusterSpec:
    # The ports are chosen here, so that the program and the servers can import TensorFlow at the same time.
    ps, worker = ([Endpoint.at(reserve_address()) for _ in range(count)] for count in (plan.num_ps, plan.num_workers))
    return ClusterSpec(worker=tuple(worker), ps=tuple(ps), chief=(Endpoint.at(reserve_address()),))


def _make_orders(spec: ClusterSpec, log_dir: str) -> list[TaskOrder]:
    counts = {jobs.PS: spec.num_ps, jobs.WORKER: spec.num_workers}
    ports = task_ports(spec.num_ps + spec.num_workers)
    return [
        TaskOrder(
            job,
            index,
            endpoint.listen,
            logs.log_path(log_dir, job, index),
            cores_each(counts[job]),
            metrics_port=metrics_port,
        )
        for (job, index, endpoint), metrics_port in zip(spec.servers(), ports, strict=True)
    ]


def _check_metrics(plan: LaunchPlan) -> None:
    """Checks that all tasks can serve their metrics, if they are asked for. The program serves those of the chief."""
    first = env.metrics_port()
    if first is not None:
        check_settings()
        names = [f"{jobs.CHIEF} 0", *(f"{jobs.PS} {index}" for index in range(plan.num_ps))]
        names += [f"{jobs.WORKER} {index}" for index in range(plan.num_workers)]
        check_free(env.metrics_host(), [(name, first + number) for number, name in enumerate(names)])


def _show(group: ServerGroup, terminal: Terminal) -> None:
    for order in group.orders:
        terminal.follow_log(order.name, order.log_path)


def _supervise(chief: ChiefProcess, group: ServerGroup, timeout_s: float) -> int:
    """Waits for the program to end and watches the servers meanwhile."""
    # The program may wait minutes for a dead server, so the servers are polled while it runs.
    while (status := chief.wait(_POLL_S)) is None:
        _check(group)
        group.check_in_time(timeout_s)
    try:
        _check(group)
    except TaskDiedError as error:
        # This is most likely why the program failed.
        logs.say(f"error: {error}")
        return status or _FAILED
    if status:
        logs.say(f"{jobs.CHIEF} 0 ended with status {status}")
    return status


def _check(group: ServerGroup) -> None:
    """Starts a server that has died again. Raises `TaskDiedError` if its budget is used up and all need it."""
    try:
        group.check()
    except TaskDiedError as died:
        # Before all servers are up, none has ever worked: the same would happen again.
        if died.task is None or not group.is_up:
            raise
        name = f"{died.task[0]} {died.task[1]}"
        if group.start_again(*died.task):
            logs.say(f"{name} is started again: {died}")
            return
        logs.say(f"{name} is not started again, after {group.restart_budget}")
        if not group.may_remove_task(*died.task):
            raise
        group.remove_task(*died.task)
        logs.say(f"the other workers continue: {died}")


def _interrupt(chief: ChiefProcess | None, number: int) -> int:
    """Forwards the signal to the program and gives it a while to end; a second signal ends the wait."""
    try:
        if chief is not None:
            chief.interrupt(number)
            # The program kills itself after the grace, so its own status is known a little later.
            status = chief.wait(env.grace_s() + _END_S)
            if status is not None and not chief.killed_by:
                logs.say(f"stopped by {signal.Signals(number).name}; {jobs.CHIEF} 0 ended with status {status}")
                return status or 128 + number
    except _Interrupted:
        pass
    logs.say(f"stopped by {signal.Signals(number).name}")
    return 128 + number


_Handlers = dict[int, object]


def _raise_on_signals() -> _Handlers:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Interrupted(number)

    return {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}


def _ignore_signals(handlers: _Handlers) -> None:
    for number in handlers:
        signal.signal(number, signal.SIG_IGN)


def _restore(handlers: _Handlers) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)  # type: ignore[arg-type]
