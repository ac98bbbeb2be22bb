"""The file that gets what TensorFlow says about a failure, which is too long for a terminal.

A graph that fails on a worker comes back as a text of hundreds of lines: the stack of every operation, once for each
server the error passed. An error of ours says what happened and names this file; the text is for whoever has to look
deeper, and for bug reports.

Ownership: one file a process, made at the first failure, in the directory for temporary files; nobody removes it.
Threading: any thread; a lock guards the file. Cost: nothing until something fails.
"""

import datetime
import os
import tempfile
import threading
import traceback

_MOST_BYTES = 10 << 20
"""A program may catch an error and go on, again and again: what comes after this many bytes is not written."""

_LOCK = threading.Lock()  # guards the file and the line below
_PATHS: dict[int, str] = {}
"""The file of each process, by its id: a fork has one of its own."""


def record(error: BaseException) -> str | None:
    """Appends an error with its traceback, as Python would print it.

    Returns:
        The path of the file; None if it cannot be written.
    """
    # Outside the lock: a text of many megabytes takes a while, and other workers' threads may fail at the same time.
    text = "".join(traceback.format_exception(error))
    now = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
    try:
        with _LOCK:
            path = _path()
            if os.path.getsize(path) < _MOST_BYTES:
                with open(path, "a", encoding="utf-8", errors="replace") as log:
                    log.write(f"--- {now}\n{text}\n")
            return path
    except OSError:
        return None  # a full disk must not hide the error that is being told


def _path() -> str:
    process = os.getpid()
    # `mkstemp` makes it readable for its owner alone: a traceback may quote the user's data.
    if process not in _PATHS:
        descriptor, _PATHS[process] = tempfile.mkstemp(prefix=f"tfps-faults-{process}-", suffix=".log")
        os.close(descriptor)
    return _PATHS[process]
