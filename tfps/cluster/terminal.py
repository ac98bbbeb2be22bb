"""Shows the output of many tasks on one terminal, each line with the name of its task.

Threading: a daemon thread reads each stream; lines are written whole, under one lock. Ownership: a `Terminal` closes
the pipes and files it reads. Cost: one wake-up per line, and for log files one every 0.1 s.
"""

import os
import sys
import threading
from typing import BinaryIO

_POLL_S = 0.1
_DRAIN_S = 2.0


class Terminal:
    """Writes the lines of pipes and growing log files to this process's output, with a prefix."""

    def __init__(self) -> None:
        # Held while a line is written.
        self._lock = threading.Lock()
        # Set once the tasks have ended, so that no log file grows any more.
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def read_pipe(self, name: str, pipe: BinaryIO, error: bool = False, copy_to: BinaryIO | None = None) -> None:
        """Shows the lines of a pipe until its end.

        Args:
            name: the task's name, such as "chief 0".
            pipe: a pipe, which is read to its end and then closed.
            error: whether to write to standard error.
            copy_to: an unbuffered file that also gets the lines, unchanged.
        """
        self._start(self._pump, name, pipe, error, copy_to)

    def follow_log(self, name: str, path: str) -> None:
        """Shows, on standard error, the lines that are appended to a log file, until `close`."""
        self._start(self._follow, name, path)

    def close(self) -> None:
        """Shows the remaining lines and stops reading. Call it when the tasks have ended."""
        self._ended.set()
        for thread in self._threads:
            thread.join(_DRAIN_S)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _pump(self, name: str, pipe: BinaryIO, error: bool, copy_to: BinaryIO | None) -> None:
        # Reading whole lines keeps the lines of two tasks apart. Text without a newline appears once its line ends.
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
                # Asked before the read: whatever was written before the end is read below.
                ended = self._ended.is_set()
                *lines, pending = (pending + log.read()).split(b"\n")
                for line in lines:
                    self._write(name, line, True)
                if ended:
                    break
                self._ended.wait(_POLL_S)
        if pending:
            self._write(name, pending, True)

    def _write(self, name: str, line: bytes, error: bool) -> None:
        # A task may print bytes in any encoding, and the launcher must not fail over that.
        text = line.decode(errors="replace").rstrip("\r\n")
        with self._lock:
            print(f"[{name}] {text}", file=sys.stderr if error else sys.stdout, flush=True)
