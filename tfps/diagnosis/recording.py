"""Records what TensorFlow does in this process. Graphs of the chief call these functions on servers and workers.

The chief gets the recording as a tensor: that needs no port, no file system that both can reach, and no certificate of
its own.
Threading: TensorFlow calls from threads of its own; `_LOCK` guards the session.
"""

import pathlib
import tempfile
import threading
from typing import Any

import numpy as np

from tfps.diagnosis import xspace
from tfps.errors import SourceError

_OPTIONS = {"host_tracer_level": 2, "python_tracer_level": 0, "device_tracer_level": 1}
"""Level 1 of the host would leave out waits for messages. The Python of a task has nothing to do with steps."""
_MOST_OF_A_KIND = 20_000
"""The most events with one name that are kept. A dataset that maps or batches element by element makes millions."""
_DROPPED = (b"ThreadpoolListener::",)
_KEPT = (b"ExecutorState::", b"FunctionRun", b"ExecutorDoneCallback")
"""Always kept: they tell the operations of closures from others."""

_LOCK = threading.Lock()
_session: Any = None
_folder: "tempfile.TemporaryDirectory[str] | None" = None
_end: threading.Timer | None = None


def start(limit_s: "np.ndarray[Any, Any]") -> list["np.ndarray[Any, Any]"]:
    """Begins a recording. It ends by itself after a while: the chief may have died.

    Args:
        limit_s: the most seconds that it lasts, a float scalar.

    Returns:
        One string, which is empty.
    """
    from tensorflow.python.profiler.internal import _pywrap_profiler  # a profile in memory is not public

    global _session, _folder, _end
    with _LOCK:
        _drop()
        session, folder = _pywrap_profiler.ProfilerSession(), tempfile.TemporaryDirectory(prefix="tfps-profile-")
        try:
            session.start(folder.name, _OPTIONS)
        # TensorFlow allows one session in a process.
        except Exception as error:
            raise SourceError(f"the process cannot be profiled: {error}") from error
        _session, _folder, _end = session, folder, threading.Timer(float(limit_s), _give_up)
        _end.daemon = True
        _end.start()
    return [np.asarray(b"", object)]


def stop() -> list["np.ndarray[Any, Any]"]:
    """Ends the recording; returns one string, the serialized `XSpace` without what nobody reads."""
    with _LOCK:
        if _session is None or _folder is None:
            raise SourceError("the process records nothing: the recording has ended after its time limit.")
        # `_session.stop()` would return a text many times as large. Only files have the recording as it is.
        _session.export_to_tb()
        (path,) = pathlib.Path(_folder.name).rglob("*.xplane.pb")
        data = path.read_bytes()
        _forget()
    return [np.asarray(trim(data), object)]


def drop() -> list["np.ndarray[Any, Any]"]:
    """Ends the recording, if there is one, and keeps nothing of it; returns one string, which is empty."""
    _give_up()
    return [np.asarray(b"", object)]


def trim(data: bytes, most: int = _MOST_OF_A_KIND) -> bytes:
    """Returns a recording without the events of a thread pool, and without kinds of which there are too many.

    Args:
        data: the serialized `XSpace`.
        most: the most events of one name that are kept.
    """
    space = xspace.new_space(data)
    for plane in space.planes:
        counts: dict[int, int] = {}
        for line in plane.lines:
            for event in line.events:
                counts[event.metadata_id] = counts.get(event.metadata_id, 0) + 1
        many = {number for number, count in counts.items() if count > most}
        dropped = {
            one.key
            for one in plane.event_metadata
            if one.value.name.startswith(_DROPPED) or (one.key in many and not one.value.name.startswith(_KEPT))
        }
        for line in plane.lines:
            kept = [event for event in line.events if event.metadata_id not in dropped]
            if len(kept) < len(line.events):
                kept = [type(event).FromString(event.SerializeToString()) for event in kept]
                del line.events[:]
                line.events.extend(kept)
    result: bytes = space.SerializeToString()
    return result


def _drop() -> None:
    """Ends a recording that nobody wants. The lock is held."""
    if _session is not None:
        _session.export_to_tb()
    _forget()


def _forget() -> None:
    """Removes what belongs to a recording that has ended. The lock is held."""
    global _session, _folder, _end
    if _folder is not None:
        _folder.cleanup()
    if _end is not None:
        _end.cancel()
    _session = _folder = _end = None


def _give_up() -> None:
    with _LOCK:
        _drop()


WORKER_FUNCTIONS = {"start": start, "stop": stop, "drop": drop}
