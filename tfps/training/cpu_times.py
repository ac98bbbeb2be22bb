"""CPU time of the processes of a cluster, from /proc of the machines they run on.

An embedded cluster is on this machine. Other servers and workers run graphs and nothing else, so a graph reads the text
of /proc where they are. Cost: nothing for the embedded cluster; elsewhere one call, some ten milliseconds. A time that
cannot be read is left out.
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

_SAMPLE = 8
"""Tasks of a job that are read at most: a cluster's are alike, and a call to each takes time."""
_LIMIT_S = 10.0
"""Seconds to wait for the tasks of other machines."""
_FILES = ("/proc/{}/stat", "/proc/{}/status", "/proc/stat")
_HERE = "this machine"


@dataclasses.dataclass(frozen=True)
class CpuTime:
    """One reading of one process.

    Args:
        job: "ps", "worker" or "chief".
        index: its number in the job.
        host: the machine it runs on.
        seconds: CPU time since it began, user and system.
        cores: cores it may use.
        host_cores: cores of its machine that it may run on.
        host_idle_s: seconds in which a core of its machine, on average, did nothing for anybody.
    """

    job: str
    index: int
    host: str
    seconds: float
    cores: int
    host_cores: int
    host_idle_s: float


def cpu_times(strategy: ParameterServerStrategy) -> list[CpuTime]:
    """Reads the CPU times of the chief and of some servers and workers, as far as they can be read.

    Args:
        strategy: whose cluster it is.
    """
    return [
        _chief_time(strategy),
        *(_embedded_times(strategy) if strategy.cluster is not None else _remote_times(strategy)),
    ]


def _chief_time(strategy: ParameterServerStrategy) -> CpuTime:
    addresses = strategy._cluster_resolver.cluster_spec().as_dict().get(jobs.CHIEF, [])
    host = _HERE if strategy.cluster is not None or not addresses else _host(addresses[0])
    cores = os.cpu_count() or 1
    # Where there is no /proc the chief still knows its own time; its machine counts as busy with nothing else.
    no_proc = CpuTime(jobs.CHIEF, 0, host, time.process_time(), cores, cores, time.monotonic())
    return parse_times(jobs.CHIEF, 0, host, _read_proc("self")) or no_proc


def _embedded_times(strategy: ParameterServerStrategy) -> list[CpuTime]:
    assert strategy.cluster is not None
    found = []
    for task in strategy.cluster.tasks:
        # A process of the embedded cluster may be limited to fewer threads than its machine has cores.
        read = parse_times(task.order.job, task.order.index, _HERE, _read_proc(str(task.pid)))
        if read is not None:
            found.append(dataclasses.replace(read, cores=min(task.order.threads or read.cores, read.cores)))
    return found


def _read_proc(process: str) -> str:
    """The text of /proc about a process here; "" where there is no /proc, or the process has just ended."""
    try:
        return "\n".join(pathlib.Path(name.format(process)).read_text() for name in _FILES)
    except OSError:
        return ""


def _remote_times(strategy: ParameterServerStrategy) -> list[CpuTime]:
    spec = strategy._cluster_resolver.cluster_spec().as_dict()
    tasks = [(job, index) for job in (jobs.PS, jobs.WORKER) for index in _sample(len(spec[job]))]
    there = [devices.task_device(job, index) for job, index in tasks]
    try:
        texts = call_within(lambda: _read_remote(there), Wait("the CPU times of the cluster", _LIMIT_S))
    except (tf.errors.OpError, ClusterTimeoutError):
        return []  # advice is given without them
    found = [
        parse_times(job, index, _host(spec[job][index]), text) for (job, index), text in zip(tasks, texts, strict=True)
    ]
    return [read for read in found if read is not None]


def _read_remote(places: list[str]) -> list[str]:
    """The text of /proc about the process behind each device."""

    @tf.function(autograph=False)
    def read() -> list[tf.Tensor]:
        texts = []
        for device in places:
            with tf.device(device):
                # Files of /proc have no size to go by; this reads until the end.
                lines = tf.data.TextLineDataset([name.format("self") for name in _FILES])
                texts.append(lines.reduce("", lambda before, line: tf.strings.join([before, line], "\n")))
        return texts

    return [text.numpy().decode() for text in read()]


def parse_times(job: str, index: int, host: str, text: str) -> CpuTime | None:
    """Parses the texts of /proc/<pid>/stat, /proc/<pid>/status and /proc/stat; None where they are something else."""
    # stat of the process: "17 (a name) S ...". Fields 14 and 15 are its CPU time in ticks. The name may be any text, so
    # the closing bracket is the last one.
    spent = re.search(r"^\s*\d+ \(.*\) \S(?: -?\d+){10} (\d+) (\d+) ", text)
    allowed = re.search(r"^Cpus_allowed_list:\s*([\d,-]+)$", text, re.MULTILINE)
    # stat of the machine: "cpu user nice system idle iowait ...", ticks of all cores, then a line for each core.
    idle = re.search(r"^cpu +\d+ \d+ \d+ (\d+) (\d+)", text, re.MULTILINE)
    if spent is None or allowed is None or idle is None:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    ranges = [[int(core) for core in part.split("-")] for part in allowed[1].split(",")]
    cores = sum(part[-1] - part[0] + 1 for part in ranges)
    idle_s = (int(idle[1]) + int(idle[2])) / ticks / max(1, len(re.findall(r"^cpu\d+ ", text, re.MULTILINE)))
    return CpuTime(job, index, host, (int(spent[1]) + int(spent[2])) / ticks, cores, cores, idle_s)


def _sample(count: int) -> list[int]:
    """Up to `_SAMPLE` numbers below `count`, spread over all of them."""
    return [i * count // min(count, _SAMPLE) for i in range(min(count, _SAMPLE))]


def _host(address: str) -> str:
    return address.rpartition(":")[0]
