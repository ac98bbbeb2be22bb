"""`progress`: one line on a terminal for work that takes long. No TensorFlow.

A bar is drawn where standard error is a terminal, by the main thread alone: what runs beside training must not write
into the lines of Keras's own bar. It comes after a moment, so that quick work shows none, and goes when the work ends.
Whoever reads a log finds what was done in the lines that tfps logs anyway.

Threading: `Progress.add` may be called in any thread.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from tfps import env

_AFTER_S = 1.0
"""The seconds after which a bar is drawn."""


class Progress:
    """Counts what is done. This one draws nothing.

    Args:
        total: how much there is to do; None if it is not known.

    Attributes:
        done: how much is done.
        total: how much there is to do.
    """

    def __init__(self, total: float | None) -> None:
        self.done, self.total = 0.0, total
        self._lock = threading.Lock()

    def add(self, amount: float = 1) -> None:
        """Says that some more is done."""
        with self._lock:
            self.done += amount

    def expect(self, amount: float) -> None:
        """Says that there is some more to do."""
        with self._lock:
            self.total = (self.total or 0) + amount

    def set(self, done: float) -> None:
        """Says how much is done by now."""
        with self._lock:
            self.done = done


@contextlib.contextmanager
def progress(what: str, total: float | None, unit: str) -> Iterator[Progress]:
    """Shows how far some work is, while a `with` block does it.

    Args:
        what: the work: "saving /runs/ckpt-5".
        total: how much there is to do; None if it is not known.
        unit: what is counted: "parts", "servers"; "bytes" are shown as MB.

    Returns:
        What the work tells how much is done.
    """
    counted = Progress(total)
    if not is_shown():
        yield counted
        return
    over = threading.Event()
    drawer = threading.Thread(target=_draw, args=(what, unit, counted, over), name="tfps-progress", daemon=True)
    drawer.start()
    try:
        yield counted
    finally:
        over.set()
        # It takes its line away, before anything else is written there.
        drawer.join(2.0)


def is_shown() -> bool:
    """Whether a bar is drawn for work that begins now, in this thread."""
    is_main = threading.current_thread() is threading.main_thread()
    stderr = sys.stderr
    return is_main and env.progress() and stderr is not None and not stderr.closed and stderr.isatty()


def _draw(what: str, unit: str, counted: Progress, over: threading.Event) -> None:
    """Draws the bar until the work is over, in a thread of its own: the work may be in a call that takes long."""
    if over.wait(_AFTER_S):
        return
    try:
        from rich import console
        from rich import progress as bars
    # Keras needs rich; a program without Keras may not have it.
    except ImportError:
        return
    counts = [bars.DownloadColumn()] if unit == "bytes" else [bars.MofNCompleteColumn(), bars.TextColumn(unit)]
    times = [bars.TimeElapsedColumn(), bars.TimeRemainingColumn()]
    # Output of the program goes where the program sends it, and not through rich.
    with bars.Progress(
        *(bars.TextColumn("{task.description}"), bars.BarColumn(), *counts, *times),
        console=console.Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bar:
        task = bar.add_task(what, total=counted.total)
        begin = time.monotonic()
        while not over.wait(0.1):
            bar.update(task, completed=counted.done, total=counted.total)
            if time.monotonic() - begin > _MOST_S:
                return


_MOST_S = 24 * 3600.0
"""The longest time for which a bar is drawn."""
