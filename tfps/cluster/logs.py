"""Texts about tasks: the tail of a log, how a process ended, a line for the terminal. Any thread."""

import os
import signal
import sys

TAIL_LINES = 20
TAIL_BYTES = 8192


def log_path(log_dir: str, job: str, index: int) -> str:
    """Returns the path of a task's log: "<log_dir>/ps-0.log"."""
    return os.path.join(log_dir, f"{job}-{index}.log")


def tail(path: str) -> str:
    """Returns the last lines of a log, indented, or a note that there are none. Reads at most 8 kB."""
    try:
        with open(path, "rb") as log:
            # A log may have gigabytes, so only its end is read. The first line may be cut; that does no harm.
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError as error:
        return f"  (no log: {error})"
    return "\n".join(f"  {line}" for line in lines) or "  (the log is empty)"


def describe_status(status: int) -> str:
    """Describes how a process ended: 3 is "with status 3", -9 is "by SIGKILL"."""
    # `subprocess` and `os.waitstatus_to_exitcode` report -n for a process that signal n ended.
    if status >= 0:
        return f"with status {status}"
    try:
        return f"by {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"


def say(text: str) -> None:
    """Prints one line about this task on standard error."""
    print(f"tfps: {text}", file=sys.stderr, flush=True)
