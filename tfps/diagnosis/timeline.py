"""The timeline of a step: how long each stage takes on each task, and what workers wait for."""

import bisect
import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfps import jobs
from tfps.diagnosis.attribution import Attribution, attribute
from tfps.diagnosis.clocks import Offset, align, match
from tfps.diagnosis.events import TaskEvents
from tfps.diagnosis.reading import edge_of
from tfps.diagnosis.stage_names import STAGES


@dataclasses.dataclass(frozen=True)
class TaskTimeline:
    """The time of one task.

    Args:
        job: "ps" or "worker".
        index: its number in the job.
        host: the machine it runs on.
        steps: the steps in the recording: of a worker its own, of a server those of all workers.
        recorded_ms: the length of the recording.
        ms: the time in each stage, for one step. Together they are `recorded_ms / steps`.
        waited_on_servers_ms: the part of a worker's waits, by stage, for one step, in which the server that it waited
            for was at work. During the rest messages were on their way, or waited for a thread.
        waited_for_ms: how long a worker waited for each server, for one step.
        clock_ahead_ms: by how much its clock was ahead of that of the first task; the times are corrected.
        clock_error_ms: the largest error of that; None if it is not known.
    """

    job: str
    index: int
    host: str
    steps: float
    recorded_ms: float
    ms: Mapping[str, float]
    waited_on_servers_ms: Mapping[str, float]
    waited_for_ms: Mapping[str, float]
    clock_ahead_ms: float = 0.0
    clock_error_ms: float | None = 0.0

    @property
    def name(self) -> str:
        """The name of the task, such as "worker 1"."""
        return f"{self.job} {self.index}"

    @property
    def step_ms(self) -> float:
        """The time of one step."""
        return sum(self.ms.values())


@dataclasses.dataclass(frozen=True)
class Timeline:
    """The timelines of all tasks.

    Args:
        tasks: the workers, then the servers.
        first_step: the number of the first step that may be in the recording.
        last_step: that of the last one.
        fed: whether the chief read the batches and fed them to the workers.
    """

    tasks: tuple[TaskTimeline, ...]
    first_step: int = 0
    last_step: int = 0
    fed: bool = False

    def of_job(self, job: str) -> list[TaskTimeline]:
        """Returns the tasks of a job that took part in a step."""
        return [task for task in self.tasks if task.job == job and task.steps]

    def mean_ms(self, job: str) -> dict[str, float]:
        """Returns the time of each stage for one step, averaged over the tasks of a job that took part in steps."""
        tasks = self.of_job(job)
        return {stage: sum(task.ms.get(stage, 0.0) for task in tasks) / max(1, len(tasks)) for stage in STAGES}

    def to_json(self) -> dict[str, Any]:
        """Returns the timeline as values of JSON; a task has its `step_ms` beside its fields."""
        tasks = [dataclasses.asdict(task) | {"step_ms": task.step_ms} for task in self.tasks]
        steps = {"first_step": self.first_step, "last_step": self.last_step}
        return {"format": 1, **steps, "fed": self.fed, "tasks": tasks}


@dataclasses.dataclass(frozen=True)
class Recorded:
    """The events of all tasks on one clock, and what belongs to which stage.

    Args:
        events: the events of the workers, then of the servers.
        attributions: the stages of the time of each task.
        offsets: by how much the clock of each task was ahead.
        origins: the begin of the recording of each task, on the clock of all; the events have the common begin.
    """

    events: Sequence[TaskEvents]
    attributions: Sequence[Attribution]
    offsets: Mapping[str, Offset]
    origins: Mapping[str, int]


def sort_recorded(events: Sequence[TaskEvents]) -> Recorded:
    """Brings the events of tasks to one clock and gives each moment in which all were recorded to a stage.

    Raises:
        ValueError: there is no such moment.
    """
    tasks = sorted(events, key=lambda one: (one.job != jobs.WORKER, one.index))
    offsets = align(tasks)
    begin, end = max(one.begin for one in tasks), min(one.end for one in tasks)
    if begin >= end:
        raise ValueError(f"the tasks must be recorded at the same time. Received: {(begin - end) / 1e6:.0f} ms apart.")
    origins = {one.name: one.begin for one in tasks}
    for one in tasks:
        one.begin, one.end = begin, end
    return Recorded(tasks, [attribute(one) for one in tasks], offsets, origins)


def make_timeline(recorded: Recorded, steps: Mapping[str, float], span: tuple[int, int] = (0, 0)) -> Timeline:
    """Returns the timeline of one step.

    Args:
        recorded: the events of all tasks.
        steps: the number of steps of each worker in its recording, by the name of the task.
        span: the numbers of the first and the last step that may be in the recording.
    """
    servers = _Servers(recorded)
    all_steps = sum(steps.values())
    found = []
    for events, one in zip(recorded.events, recorded.attributions, strict=True):
        count = steps.get(events.name, 0.0) if events.job == jobs.WORKER else all_steps
        # A worker that trained no step has no time of a step. Its time is shown as that of one.
        per = 1e6 * (count or 1.0)
        on_servers, waited_for = servers.share_waits(events, one)
        offset = recorded.offsets[events.name]
        found.append(
            TaskTimeline(
                events.job,
                events.index,
                events.host,
                count,
                (events.end - events.begin) / 1e6,
                {stage: ns / per for stage, ns in one.ns_by_stage().items()},
                {stage: ns / per for stage, ns in on_servers.items()},
                {server: ns / per for server, ns in waited_for.items()},
                offset.ns / 1e6,
                None if offset.error_ns is None else offset.error_ns / 1e6,
            )
        )
    fed = not any(events.batches for events in recorded.events)
    return Timeline(tuple(found), *span, fed=fed)


class _Servers:
    """When servers were at work, and which server sends what."""

    def __init__(self, recorded: Recorded) -> None:
        self._events = [one for one in recorded.events if one.job == jobs.PS]
        self._running = {
            events.name: one.running()
            for events, one in zip(recorded.events, recorded.attributions, strict=True)
            if events.job == jobs.PS
        }

    def share_waits(self, worker: TaskEvents, one: Attribution) -> tuple[dict[str, float], dict[str, float]]:
        """Returns how long a worker waited while the server was at work, by stage, and for each server, in ns."""
        on_servers: collections.Counter[str] = collections.Counter()
        waited_for: collections.Counter[str] = collections.Counter()
        senders = {
            there.edge: server.name
            for server in self._events
            for _, there in match(server.sent, worker.arrived, worker.name)
        }
        for segment in one.waits():
            assert segment.wait is not None
            server = senders.get(edge_of(segment.wait.name))
            if server is not None:
                waited_for[server] += segment.ns
                on_servers[segment.stages[0]] += _overlap(self._running[server], segment.begin, segment.end)
        return dict(on_servers), dict(waited_for)


def _overlap(times: Sequence[tuple[int, int]], begin: int, end: int) -> int:
    """Returns how much of [begin, end) lies in some times, which are in order and do not touch."""
    at = max(0, bisect.bisect_right(times, (begin, begin)) - 1)
    found = 0
    while at < len(times) and times[at][0] < end:
        found += max(0, min(end, times[at][1]) - max(begin, times[at][0]))
        at += 1
    return found
