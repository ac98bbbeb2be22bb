"""A background thread for cleanup that must not run inside a finalizer.

The garbage collector calls a finalizer in any thread and at any moment: a lock that the finalizer needs may already be
held by that very thread. So a finalizer only puts its work into a queue, and the background thread does the work.

Threading: any thread may call. Ownership: the thread is a daemon. At the end of the program it gets `END_S` seconds to
finish, because a thread inside TensorFlow must not outlive TensorFlow. A fork of the program has no such thread.
"""

import atexit
import logging
import queue
import threading
import weakref
from collections.abc import Callable

END_S = 5.0

# A `SimpleQueue`, because its `put` is safe inside a finalizer.
_WORK: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
_LOG = logging.getLogger("tfps")


class _Thread:
    """Holds the thread, which starts when it is first needed; `lock` guards the start."""

    lock = threading.Lock()
    thread: threading.Thread | None = None


def finalize(owner: object, work: Callable[[], None]) -> Callable[[], object]:
    """Runs `work` in the background once `owner` is collected, but never at the end of the program.

    Args:
        owner: any object.
        work: the function to run; it must not hold a reference to `owner`.

    Returns:
        A function that cancels the work.
    """
    with _Thread.lock:
        # Started here, not by the finalizer: starting a thread takes locks that a collection may interrupt.
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
        # Nobody waits for this work, and the next piece must run all the same.
        except Exception:
            _LOG.warning("The cleanup after an object failed.", exc_info=True)
        # Otherwise this frame would keep the work, and everything it refers to, alive until the next work arrives.
        del work


def _end() -> None:
    _WORK.put(None)
    if _Thread.thread is not None:
        _Thread.thread.join(END_S)
