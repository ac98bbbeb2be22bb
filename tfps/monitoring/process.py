"""Reads what a process uses: CPU, memory, and bytes over the network.

The chief reads the processes of its own machine by their ids. A process of another machine reads itself, when a graph
of the chief calls `read_here` there. Linux alone: elsewhere nothing is known, and a board shows blanks.
"""

import dataclasses
import json
import os
import pathlib
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfps.monitoring.sockets import Inode, Traffic, TrafficCounter, connection_bytes

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class ProcessReading:
    """A process at one moment.

    Args:
        pid: its id.
        host: the name of its machine.
        cpu_s: user and system CPU time since it started, in seconds.
        resident_bytes: its memory.
        cores: the number of cores that it may use.
        host_cores: the number of cores of its machine that it may run on.
        host_idle_s: seconds for which a core of its machine was idle, averaged over its cores.
        received_bytes: bytes that came in by TCP; None if not known.
        sent_bytes: bytes that went out by TCP; None if not known.
    """

    pid: int
    host: str
    cpu_s: float
    resident_bytes: int
    cores: int
    host_cores: int
    host_idle_s: float
    received_bytes: int | None = None
    sent_bytes: int | None = None


class ProcessReader:
    """Reads one process of this machine, again and again.

    Args:
        pid: its id; None for this process.
    """

    def __init__(self, pid: int | None = None) -> None:
        self.pid = os.getpid() if pid is None else pid
        self._traffic = TrafficCounter(self.pid)

    def read(self, connections: Mapping[Inode, Traffic] | None) -> ProcessReading | None:
        """Returns what the process uses; None if it has ended, or where there is no /proc.

        Args:
            connections: what `connection_bytes` returned. Several readers share it.
        """
        try:
            stat = pathlib.Path(f"/proc/{self.pid}/stat").read_text()
            status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
            machine = pathlib.Path("/proc/stat").read_text()
        except OSError:
            return None
        fields = parse_stat(stat)
        if fields is None:
            return None
        traffic = self._traffic.count(connections)
        received, sent = (None, None) if traffic is None else traffic
        host, cores, idle_s = socket.gethostname(), allowed_cores(status), idle_seconds(machine)
        return ProcessReading(self.pid, host, fields[0], fields[1], cores, cores, idle_s, received, sent)


def read_all(readers: Sequence[ProcessReader]) -> list[ProcessReading | None]:
    """Reads several processes of this machine; the kernel is asked once for the bytes of all."""
    connections = connection_bytes()
    return [reader.read(connections) for reader in readers]


def parse_stat(text: str) -> tuple[float, int] | None:
    """Returns the CPU seconds and the resident bytes in /proc/<pid>/stat; None if the text is something else."""
    # "17 (a name) S ...": the name may contain brackets, so the fields are counted from the last one.
    _, bracket, rest = text.rpartition(")")
    fields = rest.split()
    # A process that has ended and waits for its parent is no more.
    if not bracket or len(fields) < 22 or fields[0] in "ZX":
        return None
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND, int(fields[21]) * _PAGE_BYTES


def allowed_cores(status: str) -> int:
    """Returns the number of cores in the list of /proc/<pid>/status that a process may run on; 1 if it has none."""
    allowed = re.search(r"^Cpus_allowed_list:\s*([\d,-]+)$", status, re.MULTILINE)
    # Example: "0-3,8" are five cores.
    ranges = [[int(core) for core in part.split("-")] for part in allowed[1].split(",")] if allowed else [[0]]
    return sum(part[-1] - part[0] + 1 for part in ranges)


def idle_seconds(machine: str) -> float:
    """Returns the idle seconds of an average core in /proc/stat, waits for disks included; 0 if it has none."""
    idle = re.search(r"^cpu +\d+ \d+ \d+ (\d+) (\d+)", machine, re.MULTILINE)
    cores = len(re.findall(r"^cpu\d+ ", machine, re.MULTILINE))
    return (int(idle[1]) + int(idle[2])) / _TICKS_A_SECOND / max(1, cores) if idle else 0.0


_HERE: list[ProcessReader] = []


def read_here() -> list[np.ndarray[Any, Any]]:
    """Reads this process, for a graph of the chief: a `ProcessReading` as JSON, or "" if nothing is known."""
    if not _HERE:
        # Made here and not at import: the process may have been forked since.
        _HERE.append(ProcessReader())
    reading = _HERE[0].read(connection_bytes())
    return [np.array("" if reading is None else json.dumps(dataclasses.asdict(reading)), object)]


WORKER_FUNCTIONS = {"read": read_here}
