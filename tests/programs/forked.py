"""Starts programs of tests as forks of a process that has imported TensorFlow, Keras and tfps.

An import takes about seven seconds of CPU, twice for a program with a `LocalCluster`, whose servers come from a process
of their own. Tests of how a program or a cluster starts and ends use `subprocess` instead. So do programs that need
other values of variables that libraries read when they are imported, such as TF_USE_LEGACY_KERAS.

One server for each process of pytest, started by the first program and ended with that process.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, TypeAlias

ROOT = pathlib.Path(__file__).parents[2]
START_S = 300.0
"""Time limit for the imports of the server and for a fork, on a busy machine."""

File: TypeAlias = IO[str] | IO[bytes] | int | None
"""A file, a descriptor, or None for none."""


class Program:
    """A running program; it leads a session of its own.

    Args:
        arguments: as for `start`.
        status: the pipe from which the process id and, at the end, the exit status are read.

    Attributes:
        pid: the process id.
        returncode: the exit status, as of `subprocess.Popen`; None while `poll` and `wait` have not seen the end.
    """

    def __init__(self, arguments: Sequence[str], status: int) -> None:
        self.arguments, self.returncode = arguments, None
        self._status = os.fdopen(status, "r")
        self.pid = self._read(START_S)

    def poll(self) -> int | None:
        """Returns the exit status, or None while the program runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.returncode = self._read(0)
        return self.returncode

    def wait(self, timeout: float = START_S) -> int:
        """Waits up to `timeout` seconds for the end and returns the exit status."""
        if self.returncode is None:
            self.returncode = self._read(timeout)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal to the program alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills the program and what it has started in its session."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def _read(self, timeout: float) -> int:
        if not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(list(self.arguments), timeout)
        line = self._status.readline()
        assert line, "the fork server has ended"
        return int(line)


def start(
    arguments: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str],
    cwd: str | os.PathLike[str] = ".",
    stdin: File = None,
    stdout: File = None,
    stderr: File = None,
) -> Program:
    """Starts a program.

    Args:
        arguments: those of `python`: a path, `-m MODULE` or `-c CODE`, and the program's own.
        env: its environment.
        cwd: its current folder.
        stdin: what it reads; nothing if None.
        stdout: where it writes; nowhere if None.
        stderr: where it writes errors; nowhere if None.
    """
    given = [os.fspath(argument) for argument in arguments]
    status, end = os.pipe()
    with open(os.devnull, "r+b") as nothing:
        files = [_descriptor(nothing if file is None else file) for file in (stdin, stdout, stderr)]
        _server().start({"arguments": given, "env": dict(env), "cwd": os.path.abspath(cwd)}, [*files, end])
    os.close(end)
    return Program(given, status)


def run(
    arguments: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str],
    timeout: float,
    cwd: str | os.PathLike[str] = ".",
    check: bool = False,
) -> "subprocess.CompletedProcess[str]":
    """Runs a program to its end, as `subprocess.run` does that captures text."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        program = start(arguments, env=env, cwd=cwd, stdout=out, stderr=err)
        try:
            program.wait(timeout)
        finally:
            program.kill()
            out.seek(0)
            err.seek(0)
            done = subprocess.CompletedProcess(program.arguments, program.wait(START_S), out.read(), err.read())
    if check:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done


@dataclasses.dataclass(frozen=True)
class _Server:
    """The process that forks.

    Args:
        channel: it reads requests from the other end, and ends when this end is closed.
    """

    channel: socket.socket

    def start(self, request: Mapping[str, object], files: Sequence[int]) -> None:
        """Requests a program with `files` as its standard files and the pipe for its status."""
        data = json.dumps(request).encode()
        socket.send_fds(self.channel, [len(data).to_bytes(8, "little")], files)
        self.channel.sendall(data)


@functools.cache
def _server() -> _Server:
    ours, theirs = socket.socketpair()
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
    # OpenBLAS would start its threads when NumPy is imported.
    environment |= {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment |= {"JE_ARROW_MALLOC_CONF": "background_thread:false"}  # pyarrow, which pandas imports
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.programs.fork_server", str(theirs.fileno())]
    # In a session of its own, so that a Ctrl-C reaches pytest alone. It ends with pytest, whose end closes the channel.
    subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[theirs.fileno()], start_new_session=True)
    theirs.close()
    return _Server(ours)


def _descriptor(file: IO[str] | IO[bytes] | int) -> int:
    return file if isinstance(file, int) else file.fileno()
