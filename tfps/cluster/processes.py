"""Ties a process to its parent's life, whatever ends the parent. Linux does it at once, other systems by polling."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def signal_on_parent_death(number: signal.Signals) -> None:
    """Asks the kernel to send this process `number` when the parent's thread that started it ends.

    The kernel watches that *thread*: whoever handles the signal must still ask `parent_is_gone`. Does nothing where
    there is no prctl.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def parent_is_gone(parent: int) -> bool:
    """Whether the process that had the id `parent` when this one started has ended (this one was handed on)."""
    return os.getppid() != parent
