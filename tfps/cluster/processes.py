"""Ties a process to its parent's life, whatever ends the parent. Linux does it at once, other systems by polling.

The standard library alone: this file also runs as a program. Pure system calls, any thread unless said otherwise.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def signal_on_parent_death(number: signal.Signals) -> None:
    """Asks the kernel to send this process `number` when the parent's thread that started it ends.

    The kernel watches that *thread*: whoever handles the signal must still ask `parent_is_gone`. Does nothing where
    there is no prctl.
    """
    # There is no portable way. Elsewhere the zygote's poll of its parent finds out, up to a second later.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def parent_is_gone(parent: int) -> bool:
    """Whether the process that had the id `parent` when this one started has ended (this one was handed on)."""
    return os.getppid() != parent


def boot_command(statement: str, *arguments: str) -> list[str]:
    """The command of a Python process that runs `statement`, with `arguments` in its `sys.argv[2:]`.

    The process gets this one's `sys.path`, so that it finds the same tfps wherever it was started.
    """
    # As JSON in an argument: PYTHONPATH would also reach the processes that this one starts, and paths may hold colons.
    prelude = "import json, sys; sys.path[:] = json.loads(sys.argv[1])"
    return [sys.executable, "-c", f"{prelude}; {statement}", json.dumps(sys.path), *arguments]


def tied_command(command: Sequence[str]) -> list[str]:
    """`command`, made to be killed when this process ends, even by SIGKILL (Linux).

    Start it from a thread that lives as long as this process: the main one.
    """
    return [sys.executable, __file__, str(os.getpid()), *command]


def exec_tied(parent: int, command: Sequence[str]) -> NoReturn:
    """Becomes `command`, which the kernel kills when the process `parent`, which started this one, ends."""
    signal_on_parent_death(signal.SIGKILL)
    # It may have ended before the line above, and then no signal comes.
    if parent_is_gone(parent):
        sys.exit(1)
    os.execvp(command[0], list(command))


def cores_each(count: int) -> int:
    """The cores each of `count` processes may compute on if they share this machine without fighting; at least 1."""
    # A container may allow fewer cores than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // count)


if __name__ == "__main__":  # by `tied_command`: as a file, so that nothing else of tfps is imported on the way
    exec_tied(int(sys.argv[1]), sys.argv[2:])
