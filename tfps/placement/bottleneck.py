"""What limits a cluster that was watched for some steps, and what to change: the advice that no plan can give."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

Limit: TypeAlias = Literal["servers", "workers", "chief", "messages", "unknown"]

_JOBS: dict[str, Limit] = {"ps": "servers", "worker": "workers", "chief": "chief"}
_BUSY = 0.7
"""Part of the cores it may use from which a process sets the pace: bursts fill the rest."""
_FULL = 0.85
"""Part of a host's cores from which its processes get in each other's way."""
_CHIEF_BUSY = 0.8
"""Cores the chief keeps busy at most, or nearly: its Python runs on one."""
_FOREIGN = 0.2
"""Cores with other programs that are worth a word."""
_WAITING = 0.2
"""Part of the time without a closure from which workers wait for the chief."""
_UNEVEN = 1.2


@dataclasses.dataclass(frozen=True)
class Task:
    """What one process did while it was watched.

    Args:
        job: "ps", "worker" or "chief".
        index: its number in the job.
        host: the machine it runs on.
        used: cores it kept busy: CPU seconds a second.
        cores: cores it may use at most.
        host_cores: cores of its machine.
        host_idle: part of the time in which a core of its machine, on average, did nothing for anybody.
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
        """Part of what it may use, 0 to 1 or a little above."""
        return self.used / self.cores


@dataclasses.dataclass(frozen=True)
class Watched:
    """What was seen.

    Args:
        steps: how many were done meanwhile.
        seconds: how long that took.
        tasks: the chief, and the servers and workers whose CPU time could be read.
        waiting: part of the time in which a worker, on average, had no closure to run.
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
    """Several watches of one cluster as one, of the tasks that were seen in all of them."""
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
    """limit: what sets the pace. advice: one line for the log: why, and what to change."""

    limit: Limit
    advice: str


def judge(watched: Watched) -> Verdict:
    """Says what limits the steps that were watched.

    The first that holds: a machine that several tasks share is full, and who uses most of it is named; the chief's one
    core of Python is; the busiest server is; workers wait for closures; workers are busy; nobody is, and steps wait for
    messages. Where the CPU time of servers or workers could not be read, that is said.
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
    "chief": "The chief is the bottleneck.",
    "messages": "Messages are the bottleneck: nobody is busy, steps wait for one another's messages.",
    "unknown": "Servers or workers are the bottleneck, not the chief.",
}
_FEWER_TRIPS = "larger batches, or more steps between exchanges (dense_exchange_every, compile(steps_per_execution=))"


def _full_host(watched: Watched) -> _Found:
    for host in dict.fromkeys(task.host for task in watched.tasks):
        there = [task for task in watched.tasks if task.host == host]
        used, cores = sum(task.used for task in there), there[0].host_cores
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
    "ps": f"Put servers on other machines; or ask less of them: {_FEWER_TRIPS}.",
    "worker": "Put workers on other machines: most of the time goes into the model itself.",
    "chief": f"Give it less to do a step: {_FEWER_TRIPS}, and a dataset that workers can read.",
}


def _chief(watched: Watched) -> _Found:
    used = sum(task.used for task in watched.of("chief"))
    if used < _CHIEF_BUSY:
        return None
    return "chief", f"More workers will not help: each step costs the chief some of its one core. {_RELIEF['chief']}"


def _servers(watched: Watched) -> _Found:
    servers = watched.of("ps")
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
        return "chief", f"{text}: the chief reads the batches. Give it a dataset that workers can read (see the log)."
    return "chief", f"{text}: the chief is late with closures. Do less in callbacks; {_FEWER_TRIPS}."


def _workers(watched: Watched) -> _Found:
    workers, servers = watched.of("worker"), watched.of("ps")
    if not workers or sum(task.busy for task in workers) / len(workers) < _BUSY:
        return None
    if not servers:
        return "workers", "Add workers. What the servers can bear is not known: their CPU time could not be read."
    room = _BUSY / max(max(task.busy for task in servers), 0.01)
    return "workers", f"Add workers, or cores for each: the servers can bear about {min(room, 100):.0f} times as many."


def _nobody(watched: Watched) -> tuple[Limit, str]:
    if watched.of("ps") and watched.of("worker"):
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
            parts.append(f"{noun} {used:.2f}" + (f" of {tasks[0].cores} each" if job != "chief" else ""))
    return ", ".join(parts)
