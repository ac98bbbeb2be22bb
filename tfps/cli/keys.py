"""`Keys`: reads single keys of a terminal without waiting."""

import os
import select
import sys
from typing import Any


class Keys:
    """Lets single keys through while its context lasts. It does nothing where the input is no terminal.

    Threading: one thread.
    """

    def __init__(self) -> None:
        self._before: list[Any] | None = None

    def __enter__(self) -> "Keys":
        """Sets the terminal so that a key needs no Enter; Ctrl-C stays what it is."""
        if sys.stdin is not None and sys.stdin.isatty():
            # These modules are of Unix alone.
            import termios
            import tty

            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, *_: object) -> None:
        """Sets the terminal as it was."""
        if self._before is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def pressed(self, key: str) -> bool:
        """Returns whether a key was pressed since the last call."""
        if self._before is None or not select.select([sys.stdin], [], [], 0)[0]:
            return False
        # Read from the descriptor: Python's own buffer would hide keys from `select`.
        return key.encode() in os.read(sys.stdin.fileno(), 1024)
