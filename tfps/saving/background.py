"""`BackgroundWrite`: writes a checkpoint or an export beside training."""

import threading
from collections.abc import Callable

from tfps.errors import ClusterTimeoutError
from tfps.progress import progress

_END_S = 3600.0
"""Seconds to wait for the end of a write. Each of its parts has a limit of its own, so this one is for their sum."""


class BackgroundWrite:
    """A write that runs in a thread of its own. The end of the program waits for it.

    Args:
        write: writes.
        what: what it writes, for messages.
    """

    def __init__(self, write: Callable[[], None], what: str = "a checkpoint") -> None:
        self._what = what
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(write,), name="tfps-write")
        self._thread.start()

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        # Whatever it is, the thread of the training loop raises it.
        except BaseException as error:
            self._error = error

    @property
    def is_alive(self) -> bool:
        """Whether it is not done yet."""
        return self._thread.is_alive()

    def wait(self) -> None:
        """Waits for the end, whatever it is.

        Raises:
            ClusterTimeoutError: it has not ended within an hour.
        """
        with progress(f"waiting for {self._what}", None, ""):
            self._thread.join(_END_S)
        if self._thread.is_alive():
            raise ClusterTimeoutError(f"waited {_END_S:.0f} s for {self._what} to be written.")

    def finish(self) -> None:
        """Waits for the end, and raises the error of the write.

        Raises:
            ClusterTimeoutError: it has not ended within an hour.
        """
        self.wait()
        if self._error is not None:
            raise self._error
