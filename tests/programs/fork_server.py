"""The process that forks programs: `python -m tests.programs.fork_server DESCRIPTOR`. See `forked`.

It has one thread and no TensorFlow context, which makes forking safe. A fork leaves the loop and runs the program in
the main thread, so that it ends as any Python program does.
"""

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import types
from typing import Any

import keras  # noqa: F401
import numpy as np
import tensorflow as tf  # noqa: F401
from tensorflow.python.eager import context

import tfps
from tests.programs import forked_zygote

Request = dict[str, Any]


def load() -> None:
    """Imports what programs import. A fork would not have the threads that an import starts."""
    for name in tfps.__all__:
        getattr(tfps, name)
    assert len(os.listdir("/proc/self/task")) == 1, "an import has started a thread"
    assert context._context is None, "an import has started TensorFlow's runtime"


def serve(channel: socket.socket) -> Request:
    """Forks a program for each request. Returns in the fork, with its request; ends the server at the end of input."""
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}  # the status pipe of each program, by its process id
    while True:
        ready, _, _ = select.select([channel, ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            report_ends(running)
        if channel not in ready:
            continue
        size, files, _, _ = socket.recv_fds(channel, 8, 4)
        if not size:
            os._exit(0)
        request = json.loads(receive(channel, int.from_bytes(size, "little")))
        program = os.fork()
        if program == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (channel.detach(), ended, wake, files[3], *running.values()):
                os.close(descriptor)
            become(request, files[:3])
            return request
        running[program] = files[3]
        tell(files[3], program)
        for descriptor in files[:3]:
            os.close(descriptor)


def receive(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += channel.recv(size - len(data))
    return data


def report_ends(running: dict[int, int]) -> None:
    """Reaps the programs that have ended and reports their exit statuses."""
    for program in list(running):
        pid, status = os.waitpid(program, os.WNOHANG)
        if pid:
            pipe = running.pop(program)
            tell(pipe, os.waitstatus_to_exitcode(status))
            os.close(pipe)


def tell(pipe: int, number: int) -> None:
    # The test may have ended and closed its end.
    with contextlib.suppress(BrokenPipeError):
        os.write(pipe, b"%d\n" % number)


def become(request: Request, files: list[int]) -> None:
    """Gives the fork the files, folder, environment and arguments of the program."""
    os.setsid()
    for target, descriptor in enumerate(files):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    np.random.seed()  # Python's own `random` does this by itself
    forked_zygote.prepare()


def run(request: Request) -> None:
    """Runs the program as `python ARGUMENTS` would."""
    first, *rest = request["arguments"]
    paths = [path for path in request["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*paths, *(path for path in sys.path[1:] if path not in paths)]
    if first == "-c":
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    elif first == "-m":
        sys.argv = rest
        sys.path.insert(0, request["cwd"])
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        sys.path.insert(0, os.path.dirname(os.path.abspath(os.path.join(request["cwd"], first))))
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    load()
    run(serve(socket.socket(fileno=int(sys.argv[1]))))
