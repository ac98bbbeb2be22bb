"""A timeline as a table for the log."""

from collections.abc import Sequence

from tfps import jobs
from tfps.diagnosis.stage_names import IDLE, STAGES
from tfps.diagnosis.timeline import TaskTimeline, Timeline

_COLUMN = 14


def format_table(timeline: Timeline) -> str:
    """Returns the table: a line for each stage, a column for each task, in ms for one step and as a share of it."""
    tasks = [task for task in timeline.tasks if task.steps]
    if not tasks:
        return "No step ran while the tasks were recorded."
    lines = [_line("ms a step", [task.name for task in tasks])]
    for stage in STAGES:
        if any(task.ms.get(stage, 0.0) > 0 for task in tasks):
            lines.append(_line(stage, [_cell(task, stage) for task in tasks]))
    lines.append(_line("step", [f"{task.step_ms:.2f} 100 %" for task in tasks]))
    lines += [_format_waits(task) for task in tasks if task.job == jobs.WORKER]
    unused = [task.name for task in timeline.tasks if not task.steps]
    lines += [f"Not in use: {', '.join(unused)}."] * bool(unused)
    return "\n".join(lines)


def _cell(task: TaskTimeline, stage: str) -> str:
    ms = task.ms.get(stage, 0.0)
    return f"{ms:.2f} {ms / task.step_ms:4.0%}".replace("%", " %")


def _line(head: str, cells: Sequence[str]) -> str:
    return f"{head:<{_COLUMN}}" + "".join(f"{cell:>{_COLUMN}}" for cell in cells)


def _format_waits(task: TaskTimeline) -> str:
    """Returns what a worker's waits for servers consist of: "worker 0 waits 1.43 ms for ps 0; ..."."""
    waited = sum(task.waited_for_ms.values())
    if not waited:
        return f"{task.name} waits for no server."
    by_server = ", ".join(f"{ms:.2f} ms for {server}" for server, ms in sorted(task.waited_for_ms.items()))
    busy = sum(task.waited_on_servers_ms.values())
    return f"{task.name} waits {by_server}: {busy:.2f} ms while it works, {waited - busy:.2f} ms for messages."


def busy_share(task: TaskTimeline) -> float:
    """Returns the part of its time that a task was not idle, 0 to 1."""
    return 1.0 - task.ms.get(IDLE, 0.0) / task.step_ms if task.step_ms else 0.0
