"""The process that forks the servers of this machine, so that TensorFlow is imported once and not for every server.

One zygote serves every cluster that a program starts. It has its own session, so that a Ctrl-C does not reach it. It
has one thread and no TensorFlow context, which makes forking safe. An idle zygote wakes once a second to check that the
chief still lives, and holds the memory of one import of TensorFlow.

Its protocol is lines of JSON. Requests arrive on standard input; a group is the servers of one cluster:

    {"start": 3, "tasks": [TaskOrder, ...], "environment": {...}, "directory": "/home/me", "log_dir": "/tmp/tfps-x",
     "temporary": true}
    {"again": 3, "task": TaskOrder}                                       the task of this order has died: fork it anew
    {"kill": 3, "pid": 12}                                                one server of the group that hangs
    {"watch": 3, "pid": 12, "address": "127.0.0.1:4711", "limit_s": 120}  kill it if it does not answer for that long
    {"stop": 3}

Events go to standard output:

    {"event": "ready"}                                                    TensorFlow is imported
    {"event": "started", "group": 3, "job": "ps", "index": 0, "pid": 12, "address": "127.0.0.1:4711"}
    {"event": "ended", "group": 3, "job": "ps", "index": 0, "pid": 12, "status": -9}
    {"event": "stopped", "group": 3}                                      every server of the group is gone

The zygote ends when its input ends, when the chief's process is gone, or when it is killed, and its servers end with it
(by SIGKILL, as a server has nothing to clean up). So no process outlives the chief, however the chief ends.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import traceback
from typing import Any, NoReturn

from tfps import jobs
from tfps.cluster import processes, tf_server
from tfps.cluster.cards import count_cards, share_of_cards
from tfps.cluster.watchdog import Watchdog
from tfps.monitoring.metrics_port import serve_task

_POLL_S = 1.0


def main(parent: int, log_dir: str) -> NoReturn:
    """Serves requests until the chief ends, then removes `log_dir`.

    Args:
        parent: the chief's process id.
        log_dir: the directory of the zygote's own log.
    """
    # TensorFlow's output on standard output goes to the log, so that it cannot mix with the events.
    events = os.dup(1)
    os.dup2(2, 1)
    zygote = _Zygote(0, events, parent)
    try:
        _end_with(parent, log_dir)
        import_without_keras()
        zygote.run()
        # After an exception the directory stays, because the log says what happened.
        shutil.rmtree(log_dir, ignore_errors=True)
    finally:
        zygote.stop_all()
    os._exit(0)


def _end_with(parent: int, log_dir: str) -> None:
    """Makes this process, which has no servers yet, end if the chief ends during the import of TensorFlow."""

    def end_if_orphaned(*_: object) -> None:
        if processes.parent_is_gone(parent):
            shutil.rmtree(log_dir, ignore_errors=True)
            _remove_unread_logs()
            os._exit(1)

    signal.signal(signal.SIGUSR1, end_if_orphaned)
    processes.signal_on_parent_death(signal.SIGUSR1)
    # The chief may have ended before the line above, and then no signal arrives.
    end_if_orphaned()


def _remove_unread_logs() -> None:
    """Removes the temporary log directories of groups whose requests are still unread on standard input."""
    os.set_blocking(0, False)
    requests = b""
    # Reading would block if a fork of the chief still holds the other end open.
    with contextlib.suppress(BlockingIOError):
        while data := os.read(0, 65536):
            requests += data
    for line in requests.splitlines():
        # The last line may be cut off.
        with contextlib.suppress(ValueError):
            request = json.loads(line)
            if request.get("temporary"):
                shutil.rmtree(request["log_dir"], ignore_errors=True)


def import_without_keras() -> None:
    """Imports TensorFlow without Keras, which a server does not need and which takes a third of the import time."""
    # With None in `sys.modules` an import raises ModuleNotFoundError, and TensorFlow works without the package.
    sys.modules["keras"] = None  # type: ignore[assignment]
    try:
        tf_server.load_tensorflow()
    finally:
        del sys.modules["keras"]


class _Group:
    """The servers of one cluster.

    Args:
        request: the chief's request to start the group.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        self.key: int = request["start"]
        self.request = request
        # The order of each living server, by its process id.
        self.tasks: dict[int, dict[str, Any]] = {}
        # The address and the limit of each server that is watched, by its process id.
        self.watched: dict[int, tuple[str, float]] = {}
        # Whether a server ended without being told to.
        self.failed = False

    def kill(self) -> None:
        """Kills and reaps the servers; removes their logs if those are temporary and no server ended by itself."""
        # All servers are killed before the first wait, so that they end in parallel.
        for pid in self.tasks:
            os.kill(pid, signal.SIGKILL)
        for pid in self.tasks:
            os.waitpid(pid, 0)
        self.tasks = {}
        if self.request["temporary"] and not self.failed:
            shutil.rmtree(self.request["log_dir"], ignore_errors=True)


class _Zygote:
    """Forks servers at the chief's request and reports their starts and ends."""

    def __init__(self, requests: int, events: int, parent: int) -> None:
        self._requests, self._events, self._parent = requests, events, parent
        self._groups: dict[int, _Group] = {}
        self._pending = b""
        self._watchdog = Watchdog()

    def run(self) -> None:
        """Serves until the chief closes the input or ends."""
        wakeup = _wake_on_signals(signal.SIGCHLD, signal.SIGUSR1)
        self._send({"event": "ready"})
        # If the chief was killed while a fork of it holds the pipe open, only this poll detects it.
        while not processes.parent_is_gone(self._parent):
            ready, _, _ = select.select([self._requests, wakeup], [], [], _POLL_S)
            if wakeup in ready:
                os.read(wakeup, 4096)
            if self._requests in ready and not self._read_requests():
                return
            self._reap()
            self._kill_silent()

    def _kill_silent(self) -> None:
        """Kills the servers that have not answered for too long. They are then reaped, and replaced, as any others."""
        watched = {pid: one for group in self._groups.values() for pid, one in group.watched.items()}
        for pid in self._watchdog.look(watched):
            os.kill(pid, signal.SIGKILL)

    def stop_all(self) -> None:
        """Kills and reaps every server."""
        for group in self._groups.values():
            group.kill()
        self._groups = {}

    def _read_requests(self) -> bool:
        """Carries out the chief's requests; returns False once the chief's end of the pipe is closed."""
        data = os.read(self._requests, 65536)
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "start" in request:
                self._start(_Group(request))
            elif "again" in request:
                self._start_again(request["again"], request["task"])
            elif "watch" in request:
                self._watch(request["watch"], request["pid"], (request["address"], request["limit_s"]))
            elif "kill" in request:
                self._kill(request["kill"], request["pid"])
            else:
                self._stop(request["stop"])
        return bool(data)

    def _start(self, group: _Group) -> None:
        self._groups[group.key] = group
        for order in group.request["tasks"]:
            self._fork(group, order)

    def _start_again(self, key: int, order: dict[str, Any]) -> None:
        """Forks one server of a group anew. The chief asks for it once the old one has ended."""
        group = self._groups.get(key)
        if group is not None:
            same = [(task["job"], task["index"]) == (order["job"], order["index"]) for task in group.request["tasks"]]
            # The new order replaces the old one, because cards are divided by the place in this list.
            group.request["tasks"][same.index(True)] = order
            self._fork(group, order)

    def _fork(self, group: _Group, order: dict[str, Any]) -> None:
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            _run_task(group, order, self._events, zygote)
        group.tasks[pid] = order

    def _watch(self, key: int, pid: int, how: tuple[str, float]) -> None:
        group = self._groups.get(key)
        if group is not None and pid in group.tasks:
            group.watched[pid] = how

    def _kill(self, key: int, pid: int) -> None:
        """Kills one server. Only this process may do so: it has not reaped the server, so the id is still its own."""
        group = self._groups.get(key)
        if group is not None and pid in group.tasks:
            os.kill(pid, signal.SIGKILL)

    def _stop(self, key: int) -> None:
        group = self._groups.pop(key, None)
        if group is not None:
            group.kill()
        self._send({"event": "stopped", "group": key})

    def _reap(self) -> None:
        """Reports the servers that ended by themselves."""
        # Each server is waited for by its id: a wait for any child could reap a server that `kill` waits for.
        for group in self._groups.values():
            for pid in list(group.tasks):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    order = group.tasks.pop(pid)
                    group.watched.pop(pid, None)
                    group.failed = True
                    self._send(_event("ended", group, order, pid) | {"status": os.waitstatus_to_exitcode(status)})

    def _send(self, event: dict[str, Any]) -> None:
        # If the chief is gone, the loop of `run` is about to see it.
        with contextlib.suppress(BrokenPipeError):
            _send(self._events, event)


def _run_task(group: _Group, order: dict[str, Any], events: int, zygote: int) -> NoReturn:
    """Runs one server in a forked child until it is killed."""
    try:
        _become_task(group.request, order, zygote)
        job, index = order["job"], order["index"]
        cards: list[int] = []
        if job == jobs.WORKER:
            workers = [task for task in group.request["tasks"] if task["job"] == job]
            cards = share_of_cards(workers.index(order), len(workers), count_cards())
        address = tf_server.start_server(job, index, order["listen"], order["threads"], order["cpu_devices"], cards)
        _send(events, _event("started", group, order, os.getpid()) | {"address": address})
        os.close(events)
        if order["metrics_port"]:
            serve_task(job, index, order["metrics_port"])
        while True:
            signal.pause()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


def _become_task(request: dict[str, Any], order: dict[str, Any], zygote: int) -> None:
    """Ties the child to the zygote and sets its log, its environment and its directory, as the chief requested."""
    processes.signal_on_parent_death(signal.SIGKILL)
    # The zygote may have died before the line above, and then no signal arrives.
    if processes.parent_is_gone(zygote):
        os._exit(1)
    # The child inherited the zygote's signal handlers; a server must not run them.
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    # Descriptors, not `sys.stdout`: TensorFlow's C++ code writes to them directly.
    log = os.open(order["log_path"], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    # File systems take credentials from the environment, and a dataset may name files relative to the directory.
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])


def _wake_on_signals(*numbers: signal.Signals) -> int:
    """Returns a file descriptor that becomes readable when one of the signals arrives, so that `select` misses none."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    return readable


def _event(name: str, group: _Group, order: dict[str, Any], pid: int) -> dict[str, Any]:
    return {"event": name, "group": group.key, "job": order["job"], "index": order["index"], "pid": pid}


def _send(events: int, event: dict[str, Any]) -> None:
    # One write under PIPE_BUF (4096 bytes) is atomic: children and zygote share the pipe.
    os.write(events, json.dumps(event).encode() + b"\n")
