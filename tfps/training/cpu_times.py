"""CPU times of the processes of a cluster, read from /proc on their machines.

An embedded cluster runs on this machine. Servers and workers on other machines can only run graphs, so a graph reads
the files of /proc there. Cost: no message for an embedded cluster, else one call of some ten milliseconds. Times
that cannot be read are left out.
"""

import dataclasses
import os
import pathlib
import re
import time

import tensorflow as tf

from tfps import jobs
from tfps.cluster import devices
from tfps.errors import ClusterTimeoutError
from tfps.runtime.waiting import Wait, call_within
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.remote_files import read_files, sample

_LIMIT_S = 10.0
"""Seconds to wait for tasks on other machines."""
_FILES = ("/proc/{}/stat", "/proc/{}/status", "/proc/stat")
_HERE = "this machine"


@dataclasses.dataclass(frozen=True)
class CpuTime:
    """The CPU time of one process at one moment.

    Args:
        job: "ps", "worker" or "chief".
        index: the index of the task in its job.
        host: the machine it runs on.
        seconds: user and system CPU time since the process started.
        cores: the number of cores that the process may use.
        host_cores: the number of cores of its machine that it may run on.
        host_idle_s: seconds for which a core of its machine was idle, averaged over the cores.
    """

    job: str
    index: int
    host: str
    seconds: float
    cores: int
    host_cores: int
    host_idle_s: float


def cpu_times(strategy: ParameterServerStrategy) -> list[CpuTime]:
    """Reads the CPU times of the chief and of some servers and workers; leaves out those that cannot be read.

    Args:
        strategy: the strategy whose cluster is read.
    """
    return [
        _chief_time(strategy),
        *(_embedded_times(strategy) if strategy.cluster is not None else _remote_times(strategy)),
    ]


def _chief_time(strategy: ParameterServerStrategy) -> CpuTime:
    addresses = strategy._cluster_resolver.cluster_spec().as_dict().get(jobs.CHIEF, [])
    host = _HERE if strategy.cluster is not None or not addresses else _host(addresses[0])
    cores = os.cpu_count() or 1
    # Without /proc the chief still knows its own CPU time; its machine then counts as never idle.
    no_proc = CpuTime(jobs.CHIEF, 0, host, time.process_time(), cores, cores, time.monotonic())
    return parse_times(jobs.CHIEF, 0, host, _read_proc("self")) or no_proc


def _embedded_times(strategy: ParameterServerStrategy) -> list[CpuTime]:
    assert strategy.cluster is not None
    found = []
    for task in strategy.cluster.tasks:
        # A process of an embedded cluster may be limited to fewer threads than its machine has cores.
        read = parse_times(task.order.job, task.order.index, _HERE, _read_proc(str(task.pid)))
        if read is not None:
            found.append(dataclasses.replace(read, cores=min(task.order.threads or read.cores, read.cores)))
    return found


def _read_proc(process: str) -> str:
    """Reads /proc for a process on this machine; "" where there is no /proc or the process has just ended."""
    try:
        # One text in the order of `_FILES`, as `_read_remote` returns it for other machines.
        return "\n".join(pathlib.Path(name.format(process)).read_text() for name in _FILES)
    except OSError:
        return ""


def _remote_times(strategy: ParameterServerStrategy) -> list[CpuTime]:
    spec = strategy._cluster_resolver.cluster_spec().as_dict()
    tasks = [(job, index) for job in (jobs.PS, jobs.WORKER) for index in sample(len(spec[job]))]
    there = [devices.task_device(job, index) for job, index in tasks]
    try:
        texts = call_within(lambda: _read_remote(there), Wait("the CPU times of the cluster", _LIMIT_S))
    except (tf.errors.OpError, ClusterTimeoutError):
        # The times only serve advice in the log, which can do without them.
        return []
    found = [
        parse_times(job, index, _host(spec[job][index]), text) for (job, index), text in zip(tasks, texts, strict=True)
    ]
    return [read for read in found if read is not None]


def _read_remote(places: list[str]) -> list[str]:
    """Reads /proc for the process of each device."""
    return read_files(places, [name.format("self") for name in _FILES])


def parse_times(job: str, index: int, host: str, text: str) -> CpuTime | None:
    """Parses /proc/<pid>/stat, /proc/<pid>/status and /proc/stat, joined; None where the text is something else."""
    # The stat file of a process is "17 (a name) S ...". Fields 14 and 15 are its CPU time in ticks. The name may
    # contain brackets, so the greedy pattern stops at the last one.
    spent = re.search(r"^\s*\d+ \(.*\) \S(?: -?\d+){10} (\d+) (\d+) ", text)
    allowed = re.search(r"^Cpus_allowed_list:\s*([\d,-]+)$", text, re.MULTILINE)
    # The stat file of the machine is "cpu user nice system idle iowait ...", in ticks of all cores.
    idle = re.search(r"^cpu +\d+ \d+ \d+ (\d+) (\d+)", text, re.MULTILINE)
    if spent is None or allowed is None or idle is None:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    ranges = [[int(core) for core in part.split("-")] for part in allowed[1].split(",")]
    cores = sum(part[-1] - part[0] + 1 for part in ranges)
    idle_s = (int(idle[1]) + int(idle[2])) / ticks / max(1, len(re.findall(r"^cpu\d+ ", text, re.MULTILINE)))
    return CpuTime(job, index, host, (int(spent[1]) + int(spent[2])) / ticks, cores, cores, idle_s)


def _host(address: str) -> str:
    return address.rpartition(":")[0]
