"""Measures a run through Linux's /proc: wall time, CPU time of each role, bytes over loopback."""

import dataclasses
import os
import pathlib
import time
from collections.abc import Mapping, Sequence

_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Reading:
    """What passed between `start` and `stop`.

    Args:
        seconds: wall time.
        cpu_ms: user and system time by role, summed over the role's processes.
        loopback_bytes: everything that crossed this machine's loopback, other programs' traffic included.
    """

    seconds: float
    cpu_ms: dict[str, float]
    loopback_bytes: int


class Meter:
    """Measures one stretch of a run.

    Args:
        processes: process ids by role.
    """

    def __init__(self, processes: Mapping[str, Sequence[int]]) -> None:
        self._processes = processes
        self._before: Reading | None = None
        self.reading: Reading | None = None

    def start(self) -> None:
        """Begins the stretch; a second call is ignored."""
        self._before = self._before or self._now()

    def stop(self) -> None:
        """Ends the stretch and sets `reading`."""
        assert self._before is not None
        now, before = self._now(), self._before
        cpu_ms = {role: now.cpu_ms[role] - before.cpu_ms[role] for role in now.cpu_ms}
        self.reading = Reading(now.seconds - before.seconds, cpu_ms, now.loopback_bytes - before.loopback_bytes)

    def _now(self) -> Reading:
        cpu_ms = {role: sum(map(_cpu_ms, pids)) for role, pids in self._processes.items()}
        return Reading(time.perf_counter(), cpu_ms, _loopback_bytes())


def _cpu_ms(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()  # the command's name, in parentheses, may hold blanks
    user, system = fields[11:13]
    return (int(user) + int(system)) * _TICK_MS


def _loopback_bytes() -> int:
    with open("/proc/net/dev") as file:
        received = next(line for line in file if line.strip().startswith("lo:")).split(":")[1].split()[0]
    return int(received)


def resident_bytes(pid: int) -> int:
    """Returns the resident memory of a process."""
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """The most memory this process has held. `getrusage` would include the process that forked it."""
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM:")).split()[1]) << 10
