"""One thread of this program for what has to be done when an object is collected and cannot be done there.

The garbage collector calls a finalizer in any thread, in the midst of anything: a lock that the finalizer wants may be
the one that its thread holds. So a finalizer only puts the work into a queue, and this thread does it.

Threading: any thread may call. Ownership: the thread is a daemon; at the end of the program it is given `END_S` to be
done, because a thread inside TensorFlow must not outlive TensorFlow. A fork of the program has no such thread.
"""

import atexit
import logging
import queue
import threading
import weakref
from collections.abc import Callable

END_S = 5.0

_WORK: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()  # its `put` is safe inside a finalizer
_LOG = logging.getLogger("tfps")


class _Thread:
    """The thread, once it is needed; `lock` guards its start."""

    lock = threading.Lock()
    thread: threading.Thread | None = None


def finalize(owner: object, work: Callable[[], None]) -> Callable[[], object]:
    """Has `work` done in the background after `owner` was collected; never at the end of the program.

    Args:
        owner: any object.
        work: must not hold `owner`.

    Returns:
        A function that calls it off.
    """
    with _Thread.lock:
        # Started here and not by the finalizer: the start of a thread takes locks that a collection may interrupt.
        if _Thread.thread is None:
            _Thread.thread = threading.Thread(target=_do_work, daemon=True, name="tfps-background")
            _Thread.thread.start()
            atexit.register(_end)
    finalizer = weakref.finalize(owner, _WORK.put, work)
    # At the end of the program the servers end by themselves, and TensorFlow may be half gone.
    finalizer.atexit = False
    return finalizer.detach


def _do_work() -> None:
    while (work := _WORK.get()) is not None:
        try:
            work()
        except Exception:  # nobody waits for it, and the next one must be done all the same
            _LOG.warning("What an object left behind could not be tidied up.", exc_info=True)
        # Or this frame would hold it, and what it holds, until the next work comes.
        del work


def _end() -> None:
    _WORK.put(None)
    if _Thread.thread is not None:
        _Thread.thread.join(END_S)
