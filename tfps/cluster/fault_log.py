"""The log file for TensorFlow's full error messages, which are too long for a terminal.

The error of a graph that fails on a worker has hundreds of lines: the stack of every operation, once for each server
that the error passed. Our own error says in a line what happened and names this file. The full text is for debugging
and for bug reports.

Ownership: one file per process, created at the first failure in the directory for temporary files; nobody removes it.
Threading: any thread; a lock guards the file. Cost: nothing until something fails.
"""

import datetime
import os
import tempfile
import threading
import traceback

_MOST_BYTES = 10 << 20
"""Limit of the file: a program may catch the same error again and again. Later errors are not written."""

# Guards the file and `_PATHS`.
_LOCK = threading.Lock()
_PATHS: dict[int, str] = {}
"""The file of each process by process id, so that a fork gets another file than its parent."""


def record(error: BaseException) -> str | None:
    """Appends an error and its traceback to the log file, as Python would print them.

    Returns:
        The path of the file, or None if it cannot be written.
    """
    # Formatted outside the lock: a long text takes a while, and the threads of other workers may fail meanwhile.
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
        # A full disk must not hide the error that is being reported.
        return None


def _path() -> str:
    process = os.getpid()
    # `mkstemp` makes the file readable for its owner alone: a traceback may quote the user's data.
    if process not in _PATHS:
        descriptor, _PATHS[process] = tempfile.mkstemp(prefix=f"tfps-faults-{process}-", suffix=".log")
        os.close(descriptor)
    return _PATHS[process]
