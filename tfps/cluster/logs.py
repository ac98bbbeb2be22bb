"""The tail of a task's log, and how a process ended, in words. Pure functions over files; any thread."""

import os
import signal
import sys

TAIL_LINES = 20
TAIL_BYTES = 8192


def log_path(log_dir: str, job: str, index: int) -> str:
    """Where the output of a task goes: "<log_dir>/ps-0.log"."""
    return os.path.join(log_dir, f"{job}-{index}.log")


def tail(path: str) -> str:
    """The last lines of a log, indented; a sentence if there are none. Reads at most 8 kB."""
    try:
        with open(path, "rb") as log:
            # From the end: a log may have gigabytes. The first line that is read may be cut, and is then one of many.
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError as error:
        return f"  (no log: {error})"
    return "\n".join(f"  {line}" for line in lines) or "  (the log is empty)"


def describe_status(status: int) -> str:
    """How a process ended: 3 is "with status 3", -9 is "by SIGKILL"."""
    # `subprocess` and `os.waitstatus_to_exitcode` give -n for a process that signal n ended.
    if status >= 0:
        return f"with status {status}"
    try:
        return f"by {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"


def say(text: str) -> None:
    """Tells the terminal of this task what it does; one line on standard error."""
    print(f"tfps: {text}", file=sys.stderr, flush=True)
