"""Runs a command in a pseudo-terminal, and reads what its screen would show."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[()][A-Z0-9]|\x1b[=>78]|\r")


class Terminal:
    """A command in a terminal of its own.

    Args:
        arguments: those of `python`.
        env: its environment.
        rows: the lines of the terminal.
        columns: the width of the terminal.
    """

    def __init__(self, arguments, env, rows=60, columns=160):
        self._end, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=other,
            stdout=other,
            stderr=other,
            env={**env, "TERM": "xterm-256color"},
            start_new_session=True,
            # The terminal is the controlling one, so that its Ctrl-C becomes a signal.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(other)
        self._data = b""

    @property
    def text(self):
        """All that was written so far, without control sequences."""
        while select.select([self._end], [], [], 0)[0]:
            try:
                read = os.read(self._end, 1 << 16)
            # Linux says so when the last process has closed the terminal.
            except OSError:
                break
            if not read:
                break
            self._data += read
        return _CONTROL.sub("", self._data.decode(errors="replace"))

    def wait_for(self, words, limit_s=60):
        """Waits until words are in the text; returns the text from the first place of them on."""
        deadline = time.monotonic() + limit_s
        while (at := self.text.find(words)) < 0:
            assert time.monotonic() < deadline, f"no {words!r} in:\n{self.text[-4000:]}"
            time.sleep(0.05)
        return self.text[at:]

    def press(self, key):
        """Presses a key."""
        os.write(self._end, key.encode())

    def wait(self, limit_s=20):
        """Returns the exit status."""
        deadline = time.monotonic() + limit_s
        # Read meanwhile: a full terminal would hold the command up.
        while self.process.poll() is None and time.monotonic() < deadline:
            self.text  # noqa: B018 (reads)
            time.sleep(0.02)
        return self.process.wait(0.1)

    def close(self):
        """Ends the command."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.text  # noqa: B018 (reads)
        os.close(self._end)
