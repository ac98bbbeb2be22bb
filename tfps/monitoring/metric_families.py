"""What the metrics port says: the metrics of a task, and of the job on its chief, in the classes of prometheus-client.

Names follow the conventions of Prometheus: base units, `_total` for counters, a unit at the end. docs/monitoring.md
lists them, and tests compare the list with this module. Counters follow from counts that never go down.

Threading: prometheus-client calls `collect` in the thread of a request.
"""

import importlib.util
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tfps import jobs
from tfps.errors import ConfigError
from tfps.monitoring.process import ProcessReader
from tfps.monitoring.record import JobCounts
from tfps.monitoring.snapshot import Snapshot
from tfps.monitoring.sockets import connection_bytes
from tfps.types import CachedCounts, TaskKey
from tfps.version import __version__

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_TASK = ("task", "index")
"""The labels of a task. Not "job", which is Prometheus's own name for a set of tasks that it scrapes."""
_PHASES = ("idle", "train", "test", "predict")
_LIMITS = ("servers", "workers", jobs.CHIEF, "messages", "unknown")


def require_client() -> None:
    """Checks that prometheus-client is installed.

    Raises:
        ConfigError: it is not.
    """
    if importlib.util.find_spec("prometheus_client") is None:
        raise ConfigError(
            'a metrics port needs prometheus-client: pip install "tfps[monitoring]". '
            "Received: a port, and no such package. Valid without it: no --metrics-port and no TFPS_METRICS_PORT."
        )


class TaskMetrics:
    """The metrics of one process: every task has them.

    Args:
        task: its job.
        index: its number in the job.
    """

    def __init__(self, task: str, index: int) -> None:
        self._labels = [task, str(index)]
        self._reader = ProcessReader()

    def collect(self) -> "Iterator[Metric]":
        """Yields the metrics, as prometheus-client asks for them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        info = GaugeMetricFamily("tfps_task_info", "1, with the version of tfps.", labels=(*_TASK, "version"))
        info.add_metric([*self._labels, __version__], 1)
        yield info
        reading = self._reader.read(connection_bytes())
        if reading is None:
            return
        cpu = CounterMetricFamily("tfps_process_cpu_seconds", "User and system CPU time of the process.", labels=_TASK)
        cpu.add_metric(self._labels, reading.cpu_s)
        yield cpu
        memory = GaugeMetricFamily(
            "tfps_process_resident_memory_bytes", "Resident memory of the process.", labels=_TASK
        )
        memory.add_metric(self._labels, reading.resident_bytes)
        yield memory
        for name, what, count in (
            ("received", "came in over", reading.received_bytes),
            ("sent", "went out over", reading.sent_bytes),
        ):
            if count is not None:
                family = CounterMetricFamily(
                    f"tfps_network_{name}_bytes",
                    f"Bytes that {what} the TCP connections of the process, scrapes included.",
                    labels=_TASK,
                )
                family.add_metric(self._labels, count)
                yield family


class JobMetrics:
    """The metrics of the job: its chief has them.

    Args:
        counts: returns what the job has done.
        latest: returns the newest snapshot; None if there is none. It also says that more are wanted.
        tasks: the servers and workers of the job.
    """

    def __init__(
        self, counts: Callable[[], JobCounts], latest: Callable[[], Snapshot | None], tasks: tuple[TaskKey, ...]
    ) -> None:
        self._counts, self._latest, self._tasks = counts, latest, tasks

    def collect(self) -> "Iterator[Metric]":
        """Yields the metrics, as prometheus-client asks for them."""
        counts, snapshot = self._counts(), self._latest()
        yield from _step_metrics(counts, [index for task, index in self._tasks if task == jobs.WORKER])
        yield from _task_metrics(counts, self._tasks)
        yield from _epoch_metrics(counts)
        yield from _checkpoint_metrics(counts)
        if snapshot is not None:
            yield from _snapshot_metrics(snapshot)


def _step_metrics(counts: JobCounts, workers: list[int]) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    steps = CounterMetricFamily("tfps_steps", "Steps of training that a worker has done.", labels=["worker"])
    examples = CounterMetricFamily("tfps_examples", "Examples in these steps.", labels=["worker"])
    rows = CounterMetricFamily(
        "tfps_unique_rows", "Rows that these steps requested, each once a step.", labels=["worker"]
    )
    closures = CounterMetricFamily("tfps_closures", "Closures, of several steps each.", labels=["worker"])
    cache = [
        CounterMetricFamily(f"tfps_cache_{name}", what, labels=["worker"])
        for name, what in (
            ("asked_rows", "Rows that steps asked for, where workers keep rows."),
            ("found_rows", "Those of them that the worker had kept."),
            ("saved_bytes", "Bytes of their ids and rows, which did not cross."),
        )
    ]
    stale = GaugeMetricFamily(
        "tfps_staleness_steps", "Steps of others that ended while the last closure of a worker ran.", labels=["worker"]
    )
    # All workers from the beginning: a counter that appears late has no increase before it.
    for worker in sorted({*workers, *counts.workers}):
        done = counts.workers.get(worker)
        steps.add_metric([str(worker)], 0 if done is None else done.steps)
        examples.add_metric([str(worker)], 0 if done is None else done.examples)
        rows.add_metric([str(worker)], 0 if done is None else done.unique_rows)
        closures.add_metric([str(worker)], 0 if done is None else done.closures)
        cached = CachedCounts() if done is None else done.cached
        for family, count in zip(cache, (cached.asked, cached.found, cached.saved_bytes), strict=True):
            family.add_metric([str(worker)], count)
        if done is not None and done.staleness is not None:
            stale.add_metric([str(worker)], done.staleness)
    yield from (steps, examples, rows, closures, *cache, stale)
    yield CounterMetricFamily(
        "tfps_repeated_steps", "Steps that a restored checkpoint took back.", value=counts.repeated_steps
    )
    yield CounterMetricFamily("tfps_evaluation_steps", "Steps of evaluate.", value=counts.test_steps)
    yield CounterMetricFamily("tfps_evaluation_examples", "Examples in these steps.", value=counts.test_examples)


def _task_metrics(counts: JobCounts, tasks: tuple[TaskKey, ...]) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily

    losses = CounterMetricFamily("tfps_task_losses", "How often a task was lost.", labels=_TASK)
    restarts = CounterMetricFamily("tfps_task_restarts", "How often a lost task came back.", labels=_TASK)
    for job, index in tasks:
        losses.add_metric([job, str(index)], counts.losses_of.get((job, index), 0))
        restarts.add_metric([job, str(index)], counts.returns_of.get((job, index), 0))
    yield from (losses, restarts)


def _epoch_metrics(counts: JobCounts) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    yield CounterMetricFamily("tfps_epochs", "Epochs of training that have begun.", value=counts.epochs_begun)
    if counts.epoch is not None:
        yield GaugeMetricFamily("tfps_epoch", "The epoch of fit, from 0.", value=counts.epoch)
    yield _states("tfps_phase", "1 for what the program does now.", "phase", _PHASES, counts.phase)


def _checkpoint_metrics(counts: JobCounts) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    saved = counts.checkpoint
    yield CounterMetricFamily("tfps_checkpoints", "Checkpoints written.", value=0 if saved is None else saved.count)
    if saved is not None:
        yield GaugeMetricFamily("tfps_checkpoint_step", "The step of the last checkpoint.", value=saved.step)
        yield GaugeMetricFamily(
            "tfps_checkpoint_timestamp_seconds",
            "When the last checkpoint was complete, since 1970; its age is time() less this.",
            value=saved.at,
        )
        yield GaugeMetricFamily(
            "tfps_checkpoint_write_seconds", "How long the last checkpoint took to write.", value=saved.seconds
        )


def _snapshot_metrics(snapshot: Snapshot) -> "Iterator[Metric]":
    """Yields what has to be asked for, and is as old as the last snapshot: some seconds."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    metric = GaugeMetricFamily("tfps_metric", "The loss and the metrics of fit, as shown.", labels=["name"])
    for name, value in snapshot.metrics.items():
        metric.add_metric([name], float("nan") if value is None else value)
    yield metric
    rows = GaugeMetricFamily("tfps_table_rows", "Rows of a table.", labels=["table"])
    size = GaugeMetricFamily("tfps_table_bytes", "Bytes of a table with its slots.", labels=["table"])
    admitted = CounterMetricFamily("tfps_table_admitted_rows", "Rows that a growing table made.", labels=["table"])
    refused = CounterMetricFamily("tfps_table_refused_gradients", "Gradients of ids without a row.", labels=["table"])
    evicted = CounterMetricFamily("tfps_table_evicted_rows", "Rows that a growing table evicted.", labels=["table"])
    for table in snapshot.tables:
        rows.add_metric([table.name], table.rows)
        size.add_metric([table.name], table.bytes)
        for family, count in ((admitted, table.admitted), (refused, table.refused), (evicted, table.evicted)):
            if count is not None:
                family.add_metric([table.name], count)
    yield from (rows, size, admitted, refused, evicted)
    stored = GaugeMetricFamily("tfps_server_stored_bytes", "Bytes that the plan puts on a server.", labels=["server"])
    for server in snapshot.servers:
        stored.add_metric([str(server.index)], server.stored_bytes)
    yield stored
    up = GaugeMetricFamily("tfps_task_up", "Whether a task works: 1, or 0 if it is lost or not known.", labels=_TASK)
    for task in snapshot.tasks:
        up.add_metric([task.job, str(task.index)], float(task.status == "up"))
    yield up
    limit = None if snapshot.bottleneck is None else snapshot.bottleneck.limit
    yield _states("tfps_bottleneck", "1 for what sets the pace.", "limit", _LIMITS, limit)


def _states(name: str, text: str, label: str, valid: tuple[str, ...], now: str | None) -> "Metric":
    """Returns a metric with a sample for each state: 1 for the present one, 0 for the others."""
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, text, labels=[label])
    for state in valid:
        family.add_metric([state], float(state == now))
    return family
