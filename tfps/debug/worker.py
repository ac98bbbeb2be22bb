"""What workers do for a dump: they copy the arrays of a step, and a thread of the worker writes them.

A graph calls `write_step` (`tfps.cluster.worker_functions`). It copies the arrays and returns, so a step waits for no
disk. Where the disk is slower than training for long, steps are left out, and counted.

Threading: TensorFlow's threads, several at once; one more for each dump. No TensorFlow.
"""

import atexit
import collections
import dataclasses
import functools
import json
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfps.debug.folder import open_folder
from tfps.debug.step_file import HEADER, Array, Entry, encode, encode_index, make_values, step_path
from tfps.errors import TfpsError

MOST_WAITING_BYTES = 256_000_000
"""The most bytes of steps that wait for the disk. More would take memory from training."""

_LAST_S = 10.0
"""The most seconds that the end of a process without servers waits for the disk. Keras tells no callback that `fit`
has failed."""
_IDLE_S = 30.0
"""The seconds after which a thread without work ends."""


@dataclasses.dataclass(frozen=True)
class DumpSettings:
    """What a worker knows of a dump.

    Args:
        dump: a key of the dump that no other dump has.
        url: where its files are.
        file_format: the format of the arrays.
        limit_bytes: the most bytes that this worker writes.
        header: the content of `HEADER`, which a worker writes where it is not there: on a disk of its own.
    """

    dump: str
    url: str
    file_format: str
    limit_bytes: int
    header: str


@dataclasses.dataclass
class Costs:
    """What a dump has cost on one worker; costs of several workers can be added.

    Args:
        steps: the steps that were written.
        bytes: the bytes of their files.
        held_s: the seconds that steps waited for their arrays to be copied.
        written_s: the seconds that a thread took to write, beside training.
        left_out: the steps that were not written because too many waited for the disk.
        over_limit: the steps that were not written because of the limit.
        problem: the first error of the disk; empty if there was none.
    """

    steps: int = 0
    bytes: int = 0
    held_s: float = 0.0
    written_s: float = 0.0
    left_out: int = 0
    over_limit: int = 0
    problem: str = ""

    def __add__(self, other: "Costs") -> "Costs":
        """Adds the costs of another worker."""
        ours, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        sums = {name: ours[name] + theirs[name] for name in ours if name != "problem"}
        return Costs(**sums, problem=self.problem or other.problem)


@dataclasses.dataclass(frozen=True)
class _Waiting:
    """A step that waits for the thread that writes."""

    worker: int
    step: int
    entries: Sequence[Entry]
    arrays: Sequence[Array]

    @property
    def bytes(self) -> int:
        """The bytes of its arrays."""
        return sum(array.nbytes for array in self.arrays)


class StepWriter:
    """Writes the steps of one dump, in a thread of its own that ends when it has had no work for a while.

    Args:
        settings: the settings of the dump.
        most_waiting_bytes: the most bytes of steps that wait.
    """

    def __init__(self, settings: DumpSettings, most_waiting_bytes: int = MOST_WAITING_BYTES) -> None:
        self._settings, self._most_waiting = settings, most_waiting_bytes
        self._folder = open_folder(settings.url)
        self._costs = Costs()
        # `_changed` guards all fields below, and the costs.
        self._changed = threading.Condition()
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._waiting_bytes = 0
        # Of the thread alone.
        self._written_bytes = 0
        self._thread: threading.Thread | None = None

    def put(self, worker: int, step: int, entries: Sequence[Entry], arrays: Sequence[Array]) -> None:
        """Takes the arrays of a step; they are copied, so that TensorFlow may reuse its memory."""
        began = time.perf_counter()
        size = sum(array.nbytes for array in arrays)
        with self._changed:
            if self._costs.over_limit:
                self._costs.over_limit += 1
                return
            if (self._waiting and self._waiting_bytes + size > self._most_waiting) or self._costs.problem:
                self._costs.left_out += 1
                return
            self._waiting_bytes += size
        copies = [np.array(array) for array in arrays]
        with self._changed:
            self._waiting.append(_Waiting(worker, step, entries, copies))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tfps-dump", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            self._costs.held_s += time.perf_counter() - began

    def costs(self) -> Costs:
        """Returns the costs so far."""
        with self._changed:
            return dataclasses.replace(self._costs)

    def drain(self, timeout_s: float) -> Costs:
        """Waits until all steps are written; returns the costs.

        Args:
            timeout_s: the most seconds to wait for the disk. Steps that are not written by then count as left out.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, timeout_s)
            return dataclasses.replace(self._costs, left_out=self._costs.left_out + len(self._waiting))

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: bool(self._waiting), _IDLE_S):
                    self._thread = None
                    return
                # It stays in the queue while it is written, so that `drain` waits for it.
                waiting, is_over = self._waiting[0], self._costs.over_limit > 0
            began, size, problem = time.perf_counter(), 0, ""
            try:
                # Nothing after the first step that does not fit, or the dump would have holes.
                size = 0 if is_over else self._write(waiting)
            # The thread has no caller, and must serve `drain`. The chief logs the problem.
            except Exception as error:
                problem = str(error) if isinstance(error, TfpsError) else f"{type(error).__name__}: {error}"
            with self._changed:
                self._waiting.popleft()
                self._waiting_bytes -= waiting.bytes
                self._costs.written_s += time.perf_counter() - began
                self._costs.bytes += size
                self._costs.steps += size > 0
                self._costs.over_limit += not size and not problem
                self._costs.left_out += bool(problem)
                self._costs.problem = self._costs.problem or problem
                self._changed.notify_all()

    def _write(self, waiting: _Waiting) -> int:
        """Writes the files of a step, the index last; returns their bytes; 0 if they are over the limit."""
        folder, file_format = self._folder, self._settings.file_format
        values = make_values(waiting.entries, waiting.arrays)
        path = step_path(waiting.worker, waiting.step)
        data = encode(values, file_format)
        index = encode_index(values, waiting.worker, waiting.step, f"{path}.{file_format}", len(data))
        header = b"" if folder.exists(HEADER) else self._settings.header.encode()
        size = len(data) + len(index)
        if self._written_bytes + len(header) + size > self._settings.limit_bytes:
            return 0
        self._written_bytes += len(header) + size
        if header:
            folder.write(HEADER, header)
        folder.write(f"{path}.{file_format}", data)
        folder.write(f"{path}.json", index)
        return size


_LOCK = threading.Lock()
_WRITERS: dict[str, StepWriter] = {}
"""The writer of each dump that this process has written to; `_LOCK` guards it."""


def encode_setup(settings: DumpSettings, entries: Sequence[Entry]) -> str:
    """Returns the first argument of `write_step`.

    Args:
        settings: the settings of the dump.
        entries: the entries of the arrays that a step sends.
    """
    return json.dumps([dataclasses.asdict(settings), [dataclasses.astuple(entry) for entry in entries]])


@functools.lru_cache(maxsize=64)
def _decode_setup(setup: bytes) -> tuple[DumpSettings, list[Entry]]:
    settings, entries = json.loads(setup)
    return DumpSettings(**settings), [Entry(*entry) for entry in entries]


def _write_step(setup: bytes, step: Any, worker: Any, *arrays: Array) -> list[Array]:
    settings, entries = _decode_setup(setup)
    with _LOCK:
        writer = _WRITERS.get(settings.dump)
        if writer is None:
            if not _WRITERS:
                atexit.register(_drain_all)
            writer = _WRITERS[settings.dump] = StepWriter(settings)
    writer.put(int(worker), int(step), entries, [np.asarray(array) for array in arrays])
    return [np.zeros([], np.int64)]


def _drain_all() -> None:
    """Waits for the disk at the end of the process: a program that fails must not lose its last steps."""
    deadline = time.monotonic() + _LAST_S
    for writer in list(_WRITERS.values()):
        writer.drain(max(0.0, deadline - time.monotonic()))


def _finish(dump: bytes, timeout_s: Any) -> list[Array]:
    """Returns the costs of a dump in this process as JSON, once its steps are written; at once for a limit of 0."""
    with _LOCK:
        writer = _WRITERS.get(dump.decode())
    costs = Costs() if writer is None else writer.drain(float(timeout_s)) if timeout_s else writer.costs()
    return [np.array(json.dumps(dataclasses.asdict(costs)).encode(), dtype=object)]


WORKER_FUNCTIONS = {"write_step": _write_step, "finish": _finish}
