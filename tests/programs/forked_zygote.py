"""The zygote of a forked program: another fork, made while the program has one thread. It waits until it is needed.

It runs the same `zygote.main` as a new process would, and saves the import of TensorFlow.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Mapping, Sequence
from typing import IO

from tfps.cluster import processes, zygote, zygote_link

_NOT_READ_AGAIN = ("PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL")
"""Variables that may differ: the paths are passed on, and the level of the log does not matter."""


class Zygote:
    """The part of `subprocess.Popen` that `ZygoteLink` uses.

    Args:
        pid: the process id of the fork.
    """

    def __init__(self, pid: int) -> None:
        self.pid, self.returncode = pid, None

    def poll(self) -> int | None:
        """Returns the exit status, or None while the process runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = 60.0) -> int:
        """Waits up to `timeout` seconds for the end and returns the exit status."""
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("zygote", timeout)
            time.sleep(0.01)
        return status

    def kill(self) -> None:
        """Kills the process."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def prepare() -> None:
    """Forks the process; the first `ZygoteLink` of the program uses it."""
    parent, loaded = os.getpid(), _variables(os.environ)
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _sleep(theirs, parent)
    theirs.close()
    sleeping = [pid]

    def popen(
        command: Sequence[str], *, env: Mapping[str, str], stdin: int, stdout: int, stderr: IO[bytes], **session: bool
    ) -> "Zygote | subprocess.Popen[bytes]":
        # A second zygote, and one whose libraries must read other variables, is a new process.
        if not sleeping or _variables(env) != loaded:
            return subprocess.Popen(command, env=env, stdin=stdin, stdout=stdout, stderr=stderr, **session)
        data = json.dumps([*command[3:], dict(env)]).encode()
        socket.send_fds(ours, [len(data).to_bytes(8, "little")], [stdin, stdout, stderr.fileno()])
        ours.sendall(data)
        ours.close()
        return Zygote(sleeping.pop())

    zygote_link.subprocess = types.SimpleNamespace(Popen=popen, TimeoutExpired=subprocess.TimeoutExpired)


def _sleep(channel: socket.socket, parent: int) -> None:
    """Waits for a request and becomes the zygote, or ends with the program."""
    processes.signal_on_parent_death(signal.SIGKILL)
    if processes.parent_is_gone(parent):
        os._exit(0)
    size, files, _, _ = socket.recv_fds(channel, 8, 3)
    if not size:
        os._exit(0)
    data = b""
    while len(data) < int.from_bytes(size, "little"):
        data += channel.recv(1 << 16)
    path, _, log_dir, environment = json.loads(data)
    os.setsid()
    for target, descriptor in enumerate(files):
        os.dup2(descriptor, target)
    os.closerange(3, 256)
    sys.path[:] = json.loads(path)
    os.environ.clear()
    os.environ.update(environment)
    with contextlib.suppress(KeyError):
        # A server does not need Keras, and must not find that it is half way in.
        del sys.modules["keras"]
    zygote.main(parent, log_dir)


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    read = zygote_link._import_time_variables(environment)
    return {name: value for name, value in read.items() if name not in _NOT_READ_AGAIN}
