"""Fits the constants of the model: costs are linear in what a step does, so a few different runs give the factors."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.scaling_model import Costs, Job


@dataclasses.dataclass(frozen=True)
class Run:
    """One measured run.

    Args:
        job: what ran.
        cpu_ms: a step, by role.
        step_bytes: what crossed, a step.
        steps_per_s: of all workers.
    """

    job: Job
    cpu_ms: Mapping[str, float]
    step_bytes: float
    steps_per_s: float


def fit(
    runs: Sequence[Run], chief_ms: Mapping[int, float], delays: tuple[float, float], server_base_bytes: float
) -> Costs:
    """Least squares of relative errors, without negative factors.

    Args:
        runs: at least four that differ in servers, batch and steps a closure.
        chief_ms: CPU of the chief a step when nothing else costs, by steps a closure, which are also those a callback.
        delays: one-way delays a step, and a closure, waits for.
        server_base_bytes: memory of a server that holds nothing.
    """
    closure = [1 / run.job.steps_per_closure for run in runs]
    servers = [run.job.servers for run in runs]
    rows = [run.job.unique_rows for run in runs]
    examples = [run.job.batch for run in runs]
    factors: dict[str, Any] = {}
    alone, together = [1 / steps for steps in chief_ms], len(runs) + len(chief_ms)
    columns = [closure + alone, [1 / run.job.steps_per_callback for run in runs] + alone, [1.0] * together]
    names = ["chief_ms_per_closure", "chief_ms_per_callback", "chief_ms_per_step"]
    found = [run.cpu_ms["chief"] for run in runs] + list(chief_ms.values())
    factors |= zip(names, _factors(columns, found), strict=True)
    names = [f"server_ms_per_{what}" for what in ("request", "row", "closure")]
    factors |= zip(names, _factors([servers, rows, closure], [run.cpu_ms["servers"] for run in runs]), strict=True)
    names = [f"worker_ms_per_{what}" for what in ("step", "request", "example", "closure")]
    columns = [[1.0] * len(runs), servers, examples, closure]
    factors |= zip(names, _factors(columns, [run.cpu_ms["workers"] for run in runs]), strict=True)
    names = ["bytes_per_request", "bytes_per_row", "bytes_per_closure"]
    factors |= zip(names, _factors([servers, rows, closure], [run.step_bytes for run in runs]), strict=True)
    return Costs(
        **factors, delays_per_step=delays[0], delays_per_closure=delays[1], server_base_bytes=server_base_bytes
    )


def _factors(columns: Sequence[Sequence[float]], found: Sequence[float]) -> list[float]:
    """Factors of the columns whose sums come nearest to what was found; one that would be negative is 0."""
    matrix, target = np.array(columns, float).T, np.array(found, float)
    matrix, target = matrix / target[:, None], np.ones_like(target)
    kept = list(range(len(columns)))
    while kept:
        values = np.linalg.lstsq(matrix[:, kept], target, rcond=None)[0]
        if values.min() >= 0:
            break
        kept.pop(int(values.argmin()))
    result = dict(zip(kept, values.tolist(), strict=True)) if kept else {}
    return [float(f"{result.get(index, 0.0):.4g}") for index in range(len(columns))]
