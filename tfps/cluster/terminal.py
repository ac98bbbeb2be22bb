"""The output of many tasks on one terminal: every line with the name of its task.

Threading: each stream is read by a daemon thread of its own; lines are written whole, under one lock. Ownership: a
`Terminal` closes what it reads. Cost: a wake-up a line, and for log files one every 0.1 s.
"""

import os
import sys
import threading
from typing import BinaryIO

_POLL_S = 0.1
_DRAIN_S = 2.0


class Terminal:
    """Writes the lines of pipes and growing log files to this process's own output, prefixed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # one line at a time
        self._ended = threading.Event()  # no log file will grow any more
        self._threads: list[threading.Thread] = []

    def read_pipe(self, name: str, pipe: BinaryIO, error: bool = False, copy_to: BinaryIO | None = None) -> None:
        """Shows the lines of a pipe until its end.

        Args:
            name: the task: "chief 0".
            pipe: read to its end, then closed.
            error: whether to write to standard error.
            copy_to: an unbuffered file that gets the lines as they came.
        """
        self._start(self._pump, name, pipe, error, copy_to)

    def follow_log(self, name: str, path: str) -> None:
        """Shows, on standard error, the lines that a log file gets, until `close`."""
        self._start(self._follow, name, path)

    def close(self) -> None:
        """Shows what is left to read and stops reading. Call it when the tasks have ended."""
        self._ended.set()
        for thread in self._threads:
            thread.join(_DRAIN_S)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _pump(self, name: str, pipe: BinaryIO, error: bool, copy_to: BinaryIO | None) -> None:
        # By line, so that the lines of two tasks never mix; what a task prints without a newline waits for its end.
        with pipe:
            for line in iter(pipe.readline, b""):
                self._write(name, line, error)
                if copy_to is not None:
                    copy_to.write(line)

    def _follow(self, name: str, path: str) -> None:
        while not os.path.exists(path):
            if self._ended.wait(_POLL_S):
                return
        pending = b""
        with open(path, "rb") as log:
            while True:
                ended = self._ended.is_set()  # read once more after it: nothing comes later
                *lines, pending = (pending + log.read()).split(b"\n")
                for line in lines:
                    self._write(name, line, True)
                if ended:
                    break
                self._ended.wait(_POLL_S)
        if pending:
            self._write(name, pending, True)

    def _write(self, name: str, line: bytes, error: bool) -> None:
        # A task may print bytes of any encoding, and a terminal must not end the launcher over that.
        text = line.decode(errors="replace").rstrip("\r\n")
        with self._lock:
            print(f"[{name}] {text}", file=sys.stderr if error else sys.stdout, flush=True)
