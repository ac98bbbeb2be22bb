"""The numbers of a snapshot as scalars of TensorBoard, by tag. The part of a tag before "/" is a group of charts."""

from collections.abc import Iterator

from tfps import jobs
from tfps.monitoring.snapshot import Snapshot, TaskState


def scalars(snapshot: Snapshot) -> dict[str, float]:
    """Returns the numbers of a snapshot that are known, by tag.

    Example: {"metrics/loss": 0.5, "examples_per_s/worker 0": 51200.0, "staleness/worker 0": 3.0}.
    """
    found = {**_of_job(snapshot), **dict(_of_tables(snapshot)), **dict(_of_servers(snapshot))}
    for task in snapshot.tasks:
        found |= dict(_of_task(task))
    return {tag: float(value) for tag, value in found.items() if value is not None}


def _of_job(snapshot: Snapshot) -> dict[str, float | None]:
    # One that is not finite has a point all the same, which TensorBoard marks: it is what to look for.
    found: dict[str, float | None] = {
        f"metrics/{name}": float("nan") if value is None else value
        for name, value in snapshot.metrics.items()
        if name not in snapshot.drift
    }
    found |= {f"geo/{name.removeprefix('geo_')}": value for name, value in snapshot.drift.items()}
    found["job/steps_per_s"] = snapshot.steps_per_s
    found["job/examples_per_s"] = snapshot.examples_per_s
    found["job/unique_rows_per_s"] = snapshot.unique_rows_per_s
    if snapshot.unique_rows_per_s is not None and snapshot.steps_per_s:
        found["job/unique_rows_per_step"] = snapshot.unique_rows_per_s / snapshot.steps_per_s
    found["job/losses_of_tasks"] = snapshot.losses_count
    found["job/tasks_lost_now"] = sum(task.status == "lost" for task in snapshot.tasks)
    if snapshot.checkpoint is not None:
        found["job/checkpoint_age_s"] = snapshot.at - snapshot.checkpoint.at
        found["job/checkpoint_seconds"] = snapshot.checkpoint.seconds
    return found


def _of_task(task: TaskState) -> Iterator[tuple[str, float | None]]:
    if task.job == jobs.WORKER:
        yield f"examples_per_s/{task.name}", task.examples_per_s
        yield f"steps_per_s/{task.name}", task.steps_per_s
        yield f"staleness/{task.name}", task.staleness
    if task.job == jobs.PS:
        yield f"bytes_per_s/{task.name} received", task.received_bytes_per_s
        yield f"bytes_per_s/{task.name} sent", task.sent_bytes_per_s
    yield f"cpu_cores/{task.name}", task.cpu_cores
    yield f"resident_bytes/{task.name}", task.resident_bytes


def _of_servers(snapshot: Snapshot) -> Iterator[tuple[str, float | None]]:
    for what in ("stored_share", "traffic_share"):
        shares = [getattr(server, what) for server in snapshot.servers]
        known = [share for share in shares if share is not None]
        for server, share in zip(snapshot.servers, shares, strict=True):
            yield f"balance/{what} ps {server.index}", share
        if known and sum(known) > 0:
            # 1 where all servers are alike; 2 if the busiest has twice the mean.
            yield f"balance/{what} largest to mean", max(known) * len(known) / sum(known)


def _of_tables(snapshot: Snapshot) -> Iterator[tuple[str, float | None]]:
    for table in snapshot.tables:
        yield f"ids_per_step/{table.name}", table.ids_per_step
        yield f"row_bytes_per_s/{table.name}", table.row_bytes_per_s
        if table.grows:
            yield f"growing_rows/{table.name}", table.rows
            yield f"growing_bytes/{table.name}", table.bytes
            yield f"admitted/{table.name}", table.admitted
            yield f"refused/{table.name}", table.refused
            yield f"evicted/{table.name}", table.evicted
            # Of the ids that had a gradient and no row, the part that got one.
            yield f"admission_rate/{table.name}", _ratio(table.admitted, table.refused)


def _ratio(part: int | None, rest: int | None) -> float | None:
    if part is None or rest is None or part + rest == 0:
        return None
    return part / (part + rest)
