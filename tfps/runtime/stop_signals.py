"""Ends training after a step, with a saved state, when a signal asks for it.

SIGTERM is what a scheduler sends before it takes a machine away; Ctrl-C is SIGINT. If a saver is registered, the first
of them makes `fit` end after the step. The saver then runs, and the program ends: by `SystemExit(jobs.PREEMPTED)` after
a SIGTERM, by `KeyboardInterrupt` after a Ctrl-C. A second signal ends the program at once, and so does the end of the
grace (TFPS_GRACE_S) after a SIGTERM. Without a saver, signals do what they did.

Threading: the main thread, where Python runs handlers. In other threads no handler is installed.
"""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from tfps import env, jobs

_LOG = logging.getLogger("tfps")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """The signals that ask one strategy's training to end.

    States: idle -> asked (the first signal) -> saved (`fit` has ended and the saver has run) -> the program ends.
    """

    def __init__(self) -> None:
        self.saver: Callable[[], None] | None = None
        # The signal that has asked for the end; 0 if none has.
        self._asked = 0
        self._previous: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    @property
    def asked(self) -> bool:
        """Whether training is to end after this step. Read once a step."""
        return self._asked != 0

    def register(self, saver: Callable[[], None] | None) -> None:
        """Sets what saves the state of the training; None if nothing does."""
        self.saver = saver

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handles signals during a `fit`; after a signal, saves and ends the program when the block has ended."""
        if self._previous or threading.current_thread() is not threading.main_thread():
            # A callback of `fit` may call `fit` of another model.
            yield
            return
        self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        try:
            yield
            if self._asked:
                self._end()
        finally:
            self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.saver is None or self._asked:
            # As without us: the second signal means at once.
            previous = self._previous.get(number, signal.SIG_DFL)
            self._restore()
            if callable(previous):
                previous(number, frame)
            elif previous == signal.SIG_DFL:
                os.kill(os.getpid(), number)
            return
        self._asked = number
        grace_s = env.grace_s()
        if number == signal.SIGTERM:
            self._timer = threading.Timer(grace_s, _end_at_once, (grace_s,))
            self._timer.daemon, self._timer.name = True, "tfps-grace"
            self._timer.start()
        _LOG.warning("%s: training ends after this step, and is saved. Another signal ends it at once.", name)

    def _end(self) -> NoReturn:
        number = self._asked
        # `fit` may have saved by itself.
        if self.saver is not None:
            self.saver()
        _LOG.warning("training was saved after %s, and the program ends.", signal.Signals(number).name)
        if number == signal.SIGTERM:
            raise SystemExit(jobs.PREEMPTED)
        raise KeyboardInterrupt

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        self._asked = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _end_at_once(grace_s: float) -> NoReturn:
    """Ends the process when the grace is over: a scheduler is about to kill it."""
    _LOG.error("training was not saved within %.0f s (TFPS_GRACE_S): the program ends at once.", grace_s)
    # Not `sys.exit`: this is not the main thread, which may be anywhere. A checkpoint is renamed last, so a half one
    # is never taken for a whole one.
    os._exit(jobs.PREEMPTED)
