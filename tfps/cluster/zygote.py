"""The process that forks the servers of this machine: TensorFlow is imported once, not once a server.

It runs apart from the chief (own session, so that a Ctrl-C does not reach it), single-threaded, with no TensorFlow
context of its own, which makes forking safe. It speaks lines of JSON: orders come on its standard input, one server
each (`TaskOrder`); events leave on its standard output:

    {"event": "ready"}                                                    TensorFlow is imported
    {"event": "started", "job": "ps", "index": 0, "pid": 12, "address": "127.0.0.1:4711"}
    {"event": "ended", "job": "ps", "index": 0, "pid": 12, "status": -9}

It ends, and its servers with it (SIGKILL: a server has nothing to tidy), when its input ends, when the chief's
process is gone, or when it is itself killed. So nothing outlives the chief, however that ends.
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

from tfps.cluster import processes, tf_server

_POLL_S = 1.0


def main(parent: int, temporary_dir: str) -> NoReturn:
    """Serves orders until the chief (process `parent`) ends, then removes `temporary_dir` ("" for none)."""
    events = os.dup(1)
    os.dup2(2, 1)  # what TensorFlow prints goes to the log, never between the events
    zygote = _Zygote(0, events, parent)
    try:
        _end_with(parent, temporary_dir)
        import_without_keras()
        zygote.run()
    finally:
        clean = zygote.kill_all()
        if temporary_dir and clean:
            shutil.rmtree(temporary_dir, ignore_errors=True)
    os._exit(0)


def _end_with(parent: int, temporary_dir: str) -> None:
    """Ends this process, which has no servers yet, if the chief ends during the import of TensorFlow."""

    def end_if_orphaned(*_: object) -> None:
        if processes.parent_is_gone(parent):
            if temporary_dir:
                shutil.rmtree(temporary_dir, ignore_errors=True)
            os._exit(1)

    signal.signal(signal.SIGUSR1, end_if_orphaned)
    processes.signal_on_parent_death(signal.SIGUSR1)
    end_if_orphaned()  # the chief may have ended before the line above


def import_without_keras() -> None:
    """Imports TensorFlow for a server, which needs no Keras: about a third of the time of the import is Keras."""
    sys.modules["keras"] = None  # type: ignore[assignment]
    try:
        tf_server.load_tensorflow()
    finally:
        del sys.modules["keras"]


class _Zygote:
    """Forks servers as ordered and reports what becomes of them."""

    def __init__(self, orders: int, events: int, parent: int) -> None:
        self._orders, self._events, self._parent = orders, events, parent
        self._children: dict[int, dict[str, Any]] = {}
        self._pending = b""
        self._failed = False

    def run(self) -> None:
        """Works until the chief ends its input or is gone."""
        wakeup = _wake_on_signals(signal.SIGCHLD, signal.SIGUSR1)
        self._send({"event": "ready"})
        while not processes.parent_is_gone(self._parent):
            ready, _, _ = select.select([self._orders, wakeup], [], [], _POLL_S)
            if wakeup in ready:
                os.read(wakeup, 4096)
            if self._orders in ready and not self._read_orders():
                return
            self._reap()

    def kill_all(self) -> bool:
        """Kills and reaps every server; whether all had lived until now."""
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)
        return not self._failed

    def _read_orders(self) -> bool:
        data = os.read(self._orders, 65536)
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            self._fork(json.loads(line))
        return bool(data)

    def _fork(self, order: dict[str, Any]) -> None:
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            _run_task(order, self._events, zygote)
        self._children[pid] = order

    def _reap(self) -> None:
        for pid in list(self._children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                order = self._children.pop(pid)
                self._failed = True
                self._send(_event("ended", order, pid) | {"status": os.waitstatus_to_exitcode(status)})

    def _send(self, event: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # the chief is gone; the loop is about to notice
            _send(self._events, event)


def _run_task(order: dict[str, Any], events: int, zygote: int) -> NoReturn:
    """A forked child: one server until it is killed."""
    try:
        _become_task(order, zygote)
        job, index = order["job"], order["index"]
        address = tf_server.start_server(job, index, {index: order["address"]}, order["threads"])
        _send(events, _event("started", order, os.getpid()) | {"address": address})
        os.close(events)
        while True:
            signal.pause()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


def _become_task(order: dict[str, Any], zygote: int) -> None:
    processes.signal_on_parent_death(signal.SIGKILL)
    if processes.parent_is_gone(zygote):  # it died before the line above
        os._exit(1)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    log = os.open(order["log_path"], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)


def _wake_on_signals(*numbers: signal.Signals) -> int:
    """A file that becomes readable when one of the signals comes, so that `select` misses none."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    return readable


def _event(name: str, order: dict[str, Any], pid: int) -> dict[str, Any]:
    return {"event": name, "job": order["job"], "index": order["index"], "pid": pid}


def _send(events: int, event: dict[str, Any]) -> None:
    # One write under PIPE_BUF (4096 bytes) is atomic: children and zygote share the pipe.
    os.write(events, json.dumps(event).encode() + b"\n")
