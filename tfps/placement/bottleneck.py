"""Finds the bottleneck of a running cluster from measured CPU times, and advises what to change.

A plan knows bytes and rows but not how busy processes are, so this advice comes after some steps.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from tfps import jobs

Limit: TypeAlias = Literal["servers", "workers", "chief", "messages", "unknown"]

_JOBS: dict[str, Limit] = {jobs.PS: "servers", jobs.WORKER: "workers", jobs.CHIEF: jobs.CHIEF}
_BUSY = 0.7
"""A process that keeps this part of its cores busy on average sets the pace: its bursts use all of them."""
_FULL = 0.85
"""If more than this part of a host's cores is busy, its processes slow each other down."""
_CHIEF_BUSY = 0.8
"""Busy cores at which a chief is at its limit: its Python code runs on one core."""
_FOREIGN = 0.2
"""Cores that other programs must keep busy to be mentioned."""
_WAITING = 0.2
"""If workers have no closure for more than this part of the time, they wait for the chief."""
# Largest / mean above which the busiest server, and not servers in general, is to blame.
_UNEVEN = 1.2


@dataclasses.dataclass(frozen=True)
class Task:
    """The CPU use of one process during a measurement.

    Args:
        job: "ps", "worker" or "chief".
        index: the task's number in the job.
        host: the name of the machine it runs on.
        used: cores it kept busy, in CPU seconds per second.
        cores: cores it may use at most.
        host_cores: cores of its machine.
        host_idle: part of the time that an average core of its machine was idle, 0 to 1.
    """

    job: str
    index: int
    host: str
    used: float
    cores: int
    host_cores: int
    host_idle: float = 1.0

    @property
    def busy(self) -> float:
        """The part of its cores that the process kept busy, 0 to 1 or a little above."""
        return self.used / self.cores


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The CPU use of a cluster over some steps.

    Args:
        steps: the number of steps.
        seconds: the time they took.
        tasks: the chief, and the servers and workers whose CPU time could be read.
        waiting: part of the time that an average worker had no closure to run, 0 to 1.
        fed: whether the chief reads the batches and feeds them to the workers.
        shrinks: whether rows and deltas could cross in fewer bytes than they do.
    """

    steps: int
    seconds: float
    tasks: tuple[Task, ...]
    waiting: float
    fed: bool
    shrinks: bool = False

    def tasks_of(self, job: str) -> list[Task]:
        """Returns the tasks of one job."""
        return [task for task in self.tasks if task.job == job]


def merge(parts: Sequence[Measurement]) -> Measurement:
    """Combines several measurements of one cluster into one, for the tasks that all of them have."""
    if len(parts) == 1:
        return parts[0]
    seconds = sum(part.seconds for part in parts)

    # Rates are averaged by time: 1 core over 9 s and 2 cores over 1 s are 1.1 cores, not 1.5.
    def mean(values: Iterable[float]) -> float:
        return sum(value * part.seconds for value, part in zip(values, parts, strict=True)) / seconds

    by_part = [{(task.job, task.index): task for task in part.tasks} for part in parts]
    # A task that was lost or replaced between the parts is in some of them only, and is left out.
    tasks = [
        dataclasses.replace(
            task, used=mean(each[key].used for each in by_part), host_idle=mean(each[key].host_idle for each in by_part)
        )
        for key, task in by_part[-1].items()
        if all(key in each for each in by_part)
    ]
    waiting = mean(part.waiting for part in parts)
    steps = sum(part.steps for part in parts)
    return Measurement(steps, seconds, tuple(tasks), waiting, parts[-1].fed, parts[-1].shrinks)


class Verdict(NamedTuple):
    """The bottleneck of a cluster.

    Args:
        limit: the part of the cluster that sets the pace.
        advice: a line for the log that says why and what to change.
    """

    limit: Limit
    advice: str


def judge(measured: Measurement) -> Verdict:
    """Returns what limited the measured steps.

    The first rule that holds decides:

    1. A machine that several tasks share is full: the job that uses most of it is the limit.
    2. The chief's one core of Python is busy.
    3. The busiest server is busy.
    4. Workers wait for closures.
    5. Workers are busy.
    6. Nobody is busy, so steps wait for messages, or the CPU times of servers or workers could not be read.
    """
    limit, why = (
        _judge_hosts(measured)
        or _judge_chief(measured)
        or _judge_servers(measured)
        or _judge_waiting(measured)
        or _judge_workers(measured)
    ) or _judge_idle(measured)
    pace = f"{measured.steps} steps in {measured.seconds:.1f} s"
    return Verdict(limit, f"{_HEADS[limit]} Measured over {pace}; busy cores: {_format_cores(measured)}. {why}")


# The limit and its reason, or None if a rule does not hold.
_Finding: TypeAlias = tuple[Limit, str] | None

_HEADS: dict[Limit, str] = {
    "servers": "The parameter servers are the bottleneck.",
    "workers": "The workers are the bottleneck.",
    jobs.CHIEF: "The chief is the bottleneck.",
    "messages": "Messages are the bottleneck: nobody is busy, steps wait for one another's messages.",
    "unknown": "Servers or workers are the bottleneck, not the chief.",
}
_FEWER_TRIPS = "larger batches, or more steps between exchanges (dense_exchange_every, compile(steps_per_execution=))"


def _judge_hosts(measured: Measurement) -> _Finding:
    # `dict.fromkeys` keeps the hosts in order and drops repeats.
    for host in dict.fromkeys(task.host for task in measured.tasks):
        there = [task for task in measured.tasks if task.host == host]
        used, cores = sum(task.used for task in there), there[0].host_cores
        # Cores that are busy but not with our processes run other programs. Example: 4 cores, idle half of the time,
        # of which ours use 1.5: others use 0.5.
        others = max(0.0, (1 - there[0].host_idle) * cores - used)
        full = used >= _FULL * cores or used + others >= _FULL * cores
        # A single task on a full machine is judged by the rules of its job.
        if used and full and (len(there) > 1 or others > _FOREIGN):
            parts = {job: sum(task.used for task in there if task.job == job) / used for job in _JOBS}
            most = max(parts, key=lambda job: parts[job])
            by_job = ", ".join(f"{_JOBS[job]} {part:.0%}" for job, part in parts.items() if part)
            foreign = f", {others:.1f} of them with other programs" if others > _FOREIGN else ""
            return _JOBS[most], (
                f"The {cores} cores of {host} are full{foreign}: more processes there will not help. The cluster's "
                f"use of them: {by_job}. {_RELIEF[most]}"
            )
    return None


_RELIEF = {
    jobs.PS: f"Put servers on other machines; or ask less of them: {_FEWER_TRIPS}.",
    jobs.WORKER: "Put workers on other machines: most of the time goes into the model itself.",
    jobs.CHIEF: f"Give it less to do a step: {_FEWER_TRIPS}, and a dataset that workers can read.",
}


def _judge_chief(measured: Measurement) -> _Finding:
    # `used` and not `busy`: the chief may have many cores, but its Python code runs on one.
    used = sum(task.used for task in measured.tasks_of(jobs.CHIEF))
    if used < _CHIEF_BUSY:
        return None
    return (
        jobs.CHIEF,
        f"More workers will not help: each step costs the chief some of its one core. {_RELIEF[jobs.CHIEF]}",
    )


def _judge_servers(measured: Measurement) -> _Finding:
    servers = measured.tasks_of(jobs.PS)
    # One busy server is enough, because every step waits for the slowest server.
    busiest = max(servers, key=lambda task: task.busy, default=None)
    if busiest is None or busiest.busy < _BUSY:
        return None
    mean = sum(task.busy for task in servers) / len(servers)
    if busiest.busy > _UNEVEN * mean:
        return "servers", (
            f"Server {busiest.index} does {busiest.busy / mean:.1f} times the mean, and every step waits for it: split "
            "the tables on it, or plan by the traffic they have (rows_per_step)."
        )
    return "servers", f"More workers will not help. Add servers; or ask less of them: {_FEWER_TRIPS}."


def _judge_waiting(measured: Measurement) -> _Finding:
    if measured.waiting < _WAITING:
        return None
    text = f"A worker has nothing to run for {measured.waiting:.0%} of the time"
    if measured.fed:
        return (
            jobs.CHIEF,
            f"{text}: the chief reads the batches. Give it a dataset that workers can read (see the log).",
        )
    return jobs.CHIEF, f"{text}: the chief is late with closures. Do less in callbacks; {_FEWER_TRIPS}."


def _judge_workers(measured: Measurement) -> _Finding:
    workers, servers = measured.tasks_of(jobs.WORKER), measured.tasks_of(jobs.PS)
    if not workers or sum(task.busy for task in workers) / len(workers) < _BUSY:
        return None
    if not servers:
        return "workers", "Add workers. What the servers can bear is not known: their CPU time could not be read."
    # The factor by which workers can grow before the busiest server is at its limit: at 0.1 busy it is 7.
    room = _BUSY / max(max(task.busy for task in servers), 0.01)
    return "workers", f"Add workers, or cores for each: the servers can bear about {min(room, 100):.0f} times as many."


def _judge_idle(measured: Measurement) -> tuple[Limit, str]:
    if measured.tasks_of(jobs.PS) and measured.tasks_of(jobs.WORKER):
        fewer_bytes = '; send fewer bytes where the network is slow (wire="bfloat16", wire="int8")' * measured.shrinks
        return "messages", f"Make steps heavier or their trips fewer: {_FEWER_TRIPS}{fewer_bytes}; or add workers."
    return "unknown", (
        f"Workers had a closure {1 - measured.waiting:.0%} of the time. Whether they were busy with it is not known, "
        "because CPU times of servers and workers could not be read: if a server's CPU is near its cores, add servers; "
        "else add workers."
    )


def _format_cores(measured: Measurement) -> str:
    """Returns the busy cores of each job: "servers 0.40 of 2 each, workers 0.90 of 1 each, chief 0.10"."""
    parts = []
    for job, noun in _JOBS.items():
        tasks = measured.tasks_of(job)
        if tasks:
            used = sum(task.used for task in tasks) / len(tasks)
            parts.append(f"{noun} {used:.2f}" + (f" of {tasks[0].cores} each" if job != jobs.CHIEF else ""))
    return ", ".join(parts)
