"""The bottleneck of a running cluster, judged from measured CPU times, and what to change.

A plan knows bytes and rows but not how busy processes are, so this advice comes after some steps.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from tfps import jobs

Limit: TypeAlias = Literal["servers", "workers", "chief", "messages", "unknown"]

_JOBS: dict[str, Limit] = {jobs.PS: "servers", jobs.WORKER: "workers", jobs.CHIEF: jobs.CHIEF}
_BUSY = 0.7
"""A process that keeps this part of its cores busy sets the pace: bursts fill the rest."""
_FULL = 0.85
"""Above this part of the cores of a host its processes get in each other's way."""
_CHIEF_BUSY = 0.8
"""A chief this busy is at its limit: its Python runs on one core."""
_FOREIGN = 0.2
"""Other programs are mentioned when they keep this many cores busy."""
_WAITING = 0.2
"""Workers without a closure for this part of the time wait for the chief."""
_UNEVEN = 1.2


@dataclasses.dataclass(frozen=True)
class Task:
    """What one process did while it was watched.

    Args:
        job: "ps", "worker" or "chief".
        index: its number in the job.
        host: the machine it runs on.
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
        """Part of its cores that it kept busy, 0 to 1 or a little above."""
        return self.used / self.cores


@dataclasses.dataclass(frozen=True)
class Watched:
    """Measurements of a cluster over some steps.

    Args:
        steps: steps that were done.
        seconds: time they took.
        tasks: the chief, and the servers and workers whose CPU time could be read.
        waiting: part of the time that an average worker had no closure to run, 0 to 1.
        fed: whether the chief reads the batches.
    """

    steps: int
    seconds: float
    tasks: tuple[Task, ...]
    waiting: float
    fed: bool

    def of(self, job: str) -> list[Task]:
        """The tasks of one job."""
        return [task for task in self.tasks if task.job == job]


def together(parts: Sequence[Watched]) -> Watched:
    """Combines several measurements of one cluster, for the tasks that are in all of them."""
    if len(parts) == 1:
        return parts[0]
    seconds = sum(part.seconds for part in parts)

    def mean(values: Iterable[float]) -> float:
        return sum(value * part.seconds for value, part in zip(values, parts, strict=True)) / seconds

    found = [{(task.job, task.index): task for task in part.tasks} for part in parts]
    tasks = [
        dataclasses.replace(
            task, used=mean(each[key].used for each in found), host_idle=mean(each[key].host_idle for each in found)
        )
        for key, task in found[-1].items()
        if all(key in each for each in found)
    ]
    waiting = mean(part.waiting for part in parts)
    return Watched(sum(part.steps for part in parts), seconds, tuple(tasks), waiting, parts[-1].fed)


class Verdict(NamedTuple):
    """What sets the pace (`limit`), and a line for the log that says why and what to change (`advice`)."""

    limit: Limit
    advice: str


def judge(watched: Watched) -> Verdict:
    """Says what limited the steps that were measured.

    The first rule that holds decides: (1) a machine that several tasks share is full, and the job that uses most of it
    is named; (2) the chief's one core of Python is busy; (3) the busiest server is; (4) workers wait for closures;
    (5) workers are busy; (6) nobody is busy, so steps wait for messages. The advice says so where the CPU times of
    servers or workers could not be read.
    """
    limit, why = (
        _full_host(watched) or _chief(watched) or _servers(watched) or _starved(watched) or _workers(watched)
    ) or _nobody(watched)
    pace = f"{watched.steps} steps in {watched.seconds:.1f} s"
    return Verdict(limit, f"{_HEADS[limit]} Measured over {pace}; busy cores: {_figures(watched)}. {why}")


_Found: TypeAlias = tuple[Limit, str] | None

_HEADS: dict[Limit, str] = {
    "servers": "The parameter servers are the bottleneck.",
    "workers": "The workers are the bottleneck.",
    jobs.CHIEF: "The chief is the bottleneck.",
    "messages": "Messages are the bottleneck: nobody is busy, steps wait for one another's messages.",
    "unknown": "Servers or workers are the bottleneck, not the chief.",
}
_FEWER_TRIPS = "larger batches, or more steps between exchanges (dense_exchange_every, compile(steps_per_execution=))"


def _full_host(watched: Watched) -> _Found:
    for host in dict.fromkeys(task.host for task in watched.tasks):
        there = [task for task in watched.tasks if task.host == host]
        used, cores = sum(task.used for task in there), there[0].host_cores
        # What keeps the cores busy and is not ours: other programs of the machine.
        others = max(0.0, (1 - there[0].host_idle) * cores - used)
        full = used >= _FULL * cores or used + others >= _FULL * cores
        if used and full and (len(there) > 1 or others > _FOREIGN):
            parts = {job: sum(task.used for task in there if task.job == job) / used for job in _JOBS}
            most = max(parts, key=lambda job: parts[job])
            shares = ", ".join(f"{_JOBS[job]} {part:.0%}" for job, part in parts.items() if part)
            foreign = f", {others:.1f} of them with other programs" if others > _FOREIGN else ""
            return _JOBS[most], (
                f"The {cores} cores of {host} are full{foreign}: more processes there will not help. Of what the "
                f"cluster uses of them take {shares}. {_RELIEF[most]}"
            )
    return None


_RELIEF = {
    jobs.PS: f"Put servers on other machines; or ask less of them: {_FEWER_TRIPS}.",
    jobs.WORKER: "Put workers on other machines: most of the time goes into the model itself.",
    jobs.CHIEF: f"Give it less to do a step: {_FEWER_TRIPS}, and a dataset that workers can read.",
}


def _chief(watched: Watched) -> _Found:
    used = sum(task.used for task in watched.of(jobs.CHIEF))
    if used < _CHIEF_BUSY:
        return None
    return (
        jobs.CHIEF,
        f"More workers will not help: each step costs the chief some of its one core. {_RELIEF[jobs.CHIEF]}",
    )


def _servers(watched: Watched) -> _Found:
    servers = watched.of(jobs.PS)
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


def _starved(watched: Watched) -> _Found:
    if watched.waiting < _WAITING:
        return None
    text = f"A worker has nothing to run for {watched.waiting:.0%} of the time"
    if watched.fed:
        return (
            jobs.CHIEF,
            f"{text}: the chief reads the batches. Give it a dataset that workers can read (see the log).",
        )
    return jobs.CHIEF, f"{text}: the chief is late with closures. Do less in callbacks; {_FEWER_TRIPS}."


def _workers(watched: Watched) -> _Found:
    workers, servers = watched.of(jobs.WORKER), watched.of(jobs.PS)
    if not workers or sum(task.busy for task in workers) / len(workers) < _BUSY:
        return None
    if not servers:
        return "workers", "Add workers. What the servers can bear is not known: their CPU time could not be read."
    # How many times as many workers until the busiest server is at its limit.
    room = _BUSY / max(max(task.busy for task in servers), 0.01)
    return "workers", f"Add workers, or cores for each: the servers can bear about {min(room, 100):.0f} times as many."


def _nobody(watched: Watched) -> tuple[Limit, str]:
    if watched.of(jobs.PS) and watched.of(jobs.WORKER):
        return "messages", f"Make steps heavier or their trips fewer: {_FEWER_TRIPS}; or add workers."
    return "unknown", (
        f"Workers had a closure {1 - watched.waiting:.0%} of the time. What they did with it cannot be known here, as "
        "CPU times of servers and workers could not be read: where a server's CPU is near its cores, add servers; "
        "else add workers."
    )


def _figures(watched: Watched) -> str:
    """Each job's busy cores: "servers 0.4 of 2 each, workers 0.9 of 1 each, chief 0.1"."""
    parts = []
    for job, noun in _JOBS.items():
        tasks = watched.of(job)
        if tasks:
            used = sum(task.used for task in tasks) / len(tasks)
            parts.append(f"{noun} {used:.2f}" + (f" of {tasks[0].cores} each" if job != jobs.CHIEF else ""))
    return ", ".join(parts)
