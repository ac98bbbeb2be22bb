"""Makes a child process end with its parent, whatever ends the parent: at once on Linux, by polling elsewhere.

Only the standard library is imported, because this file also runs as a program. Any thread, unless a function says
otherwise.
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
    """Asks the kernel to send the signal `number` to this process when the thread that started it ends.

    The kernel watches that *thread*, not the parent process: a handler of the signal must still ask `parent_is_gone`.
    Does nothing on systems without prctl.
    """
    # There is no portable way. On other systems the zygote polls its parent once a second.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def parent_is_gone(parent: int) -> bool:
    """Returns whether the parent has ended. `parent` is the parent's process id when this process started."""
    # The kernel hands an orphan to another process, so its parent id changes.
    return os.getppid() != parent


def boot_command(statement: str, *arguments: str) -> list[str]:
    """Returns the command of a Python process that runs `statement`, with `arguments` in its `sys.argv[2:]`.

    The process gets the `sys.path` of this one, so that it imports the same tfps.
    """
    # The paths travel as JSON in an argument. PYTHONPATH would also reach the process's children, and a path may
    # contain colons.
    prelude = "import json, sys; sys.path[:] = json.loads(sys.argv[1])"
    return [sys.executable, "-c", f"{prelude}; {statement}", json.dumps(sys.path), *arguments]


def tied_command(command: Sequence[str]) -> list[str]:
    """Returns a command that runs `command` and is killed when this process ends, even by SIGKILL (Linux).

    Start it from a thread that lives as long as this process, which is the main thread.
    """
    return [sys.executable, __file__, str(os.getpid()), *command]


def exec_tied(parent: int, command: Sequence[str]) -> NoReturn:
    """Replaces this process by `command`, which the kernel kills when the process `parent` ends."""
    signal_on_parent_death(signal.SIGKILL)
    # The parent may have ended before the line above, and then no signal arrives.
    if parent_is_gone(parent):
        sys.exit(1)
    os.execvp(command[0], list(command))


def cores_each(count: int) -> int:
    """Returns this machine's cores divided by `count` processes, at least 1."""
    # A container may allow fewer cores than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // count)


# `tied_command` runs this file by its path, so that no other module of tfps is imported.
if __name__ == "__main__":
    exec_tied(int(sys.argv[1]), sys.argv[2:])
