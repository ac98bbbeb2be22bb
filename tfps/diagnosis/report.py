"""Makes the files of a profile from the recordings of the tasks. No TensorFlow: `make_report` runs in its own process.

Reading a second of some tasks takes seconds of CPU in Python, which the chief needs for its training loop.
"""

import dataclasses
import json
import logging
import os
import pathlib
import subprocess
from collections.abc import Sequence

from tfps import jobs
from tfps.cluster.processes import boot_command
from tfps.diagnosis import tensorboard_profile
from tfps.diagnosis.chrome_trace import write_trace
from tfps.diagnosis.reading import read_events
from tfps.diagnosis.table import format_table
from tfps.diagnosis.timeline import Recorded, TaskTimeline, Timeline, make_timeline, sort_recorded
from tfps.diagnosis.verdict import judge
from tfps.errors import ClusterTimeoutError, TfpsError

_LOG = logging.getLogger("tfps")
_ORDER, _OUT = "order.json", "out"
TIMELINE, TABLE, TRACE = "timeline.json", "table.txt", "trace.json.gz"
_LIMIT_S = 600.0
"""Seconds to wait for a report: some ten are usual."""
_NICE = 10
"""The report gives way to training."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """The recording of one task.

    Args:
        job: "ps" or "worker".
        index: its number in the job.
        host: the machine it runs on.
        data: the serialized `XSpace`.
    """

    job: str
    index: int
    host: str
    data: bytes


@dataclasses.dataclass(frozen=True)
class Span:
    """The steps that may be in a recording.

    Args:
        first: the number of the first one.
        last: that of the last one.
        steps: the number of steps that the chief has handed out meanwhile; it is used where workers read no input.
    """

    first: int
    last: int
    steps: int


def make_report(recordings: Sequence[Recording], span: Span, folder: pathlib.Path) -> pathlib.Path:
    """Makes the files of a profile, in a process of its own, and returns the folder that has them.

    Args:
        recordings: the recordings of the tasks.
        span: the steps that may be in them.
        folder: an empty folder on this machine.

    Raises:
        ClusterTimeoutError: it took too long.
        TfpsError: the process has failed.
    """
    order = {"span": dataclasses.asdict(span), "tasks": [[one.job, one.index, one.host] for one in recordings]}
    (folder / _ORDER).write_text(json.dumps(order))
    for number, one in enumerate(recordings):
        (folder / str(number)).write_bytes(one.data)
    command = boot_command("from tfps.diagnosis.report import main; main(sys.argv[2])", str(folder))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise ClusterTimeoutError(f"waited {_LIMIT_S:.0f} s for the report of a profile.") from None
    if done.returncode:
        raise TfpsError(f"the report of a profile failed: {done.stderr.strip().splitlines()[-1:]}.")
    return folder / _OUT


def main(folder: str) -> None:
    """Runs in the process of a report: reads the recordings in a folder and writes the files beside them."""
    os.nice(_NICE)
    path = pathlib.Path(folder)
    order = json.loads((path / _ORDER).read_text())
    recordings = [
        Recording(job, index, host, (path / str(number)).read_bytes())
        for number, (job, index, host) in enumerate(order["tasks"])
    ]
    out = path / _OUT
    out.mkdir()
    for name, data in report_files(recordings, Span(**order["span"])).items():
        (out / name).write_bytes(data)


def report_files(recordings: Sequence[Recording], span: Span) -> dict[str, bytes]:
    """Returns the files of a profile by name."""
    by_name = {f"{one.job} {one.index}": one for one in recordings}
    recorded = sort_recorded([read_events(one.data, one.job, one.index, one.host) for one in recordings])
    timeline = make_timeline(recorded, _steps(recorded, span), (span.first, span.last))
    found = timeline.to_json() | {"verdict": None}
    verdict = judge(timeline)
    if verdict is not None:
        found["verdict"] = verdict._asdict()
    files = {
        TIMELINE: json.dumps(found, indent=1).encode(),
        TABLE: format_table(timeline).encode(),
        TRACE: write_trace(recorded),
    }
    for events, one in zip(recorded.events, recorded.attributions, strict=True):
        begin, ahead = recorded.origins[events.name], recorded.offsets[events.name].ns
        data = by_name[events.name].data
        files[f"{events.job}-{events.index}.xplane.pb"] = tensorboard_profile.with_stages(data, one, begin, ahead)
    return files


def _steps(recorded: Recorded, span: Span) -> dict[str, float]:
    """Returns the number of steps of each worker: the batches that it read, or its part of those that were handed out.

    A batch that the chief feeds leaves no event on a worker. Each closure over such batches is then taken to have as
    many steps as the others.
    """
    workers = [one for one in recorded.events if one.job == jobs.WORKER]
    if any(one.batches for one in workers):
        return {one.name: float(one.batches) for one in workers}
    calls = sum(len(one.calls) for one in workers)
    return {one.name: span.steps * len(one.calls) / max(1, calls) for one in workers}


def read_timeline(data: bytes) -> tuple[Timeline, str]:
    """Returns the timeline of a `timeline.json`, and the advice in it."""
    found = json.loads(data)
    tasks = []
    for task in found["tasks"]:
        del task["step_ms"]
        tasks.append(TaskTimeline(**task))
    verdict = found["verdict"]
    return Timeline(tuple(tasks), found["first_step"], found["last_step"], found["fed"]), verdict[
        "advice"
    ] if verdict else ""
