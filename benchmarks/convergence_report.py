"""Tables and a picture of the lines that the convergence benchmark writes."""

import collections
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any


def table(runs: Sequence[dict[str, Any]]) -> str:
    """A row for each way of training: mean and spread over the seeds of the last figures, as a table in Markdown.

    The difference to one process compares runs of the same seed; it is empty where one process was not run.
    """
    metric = metric_of(runs)
    alone = {run["seed"]: run["curve"][-1][metric] for run in runs if run["name"] == "one"}
    lines = [f"| mode | workers | {metric} | to one process | loss | seconds |", "|---|---|---|---|---|---|"]
    for name, workers, group in groups(runs):
        last = [run["curve"][-1] for run in group]
        differences = [run["curve"][-1][metric] - alone[run["seed"]] for run in group if run["seed"] in alone]
        cells = [
            name,
            str(workers),
            spread([figures[metric] for figures in last]),
            spread(differences, "+") if differences and name != "one" else "",
            spread([figures["loss"] for figures in last]) if "loss" in last[0] else "",
            f"{statistics.median(figures['seconds'] for figures in last):.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def grid(runs: Sequence[dict[str, Any]]) -> str:
    """A row for each way of training, a column for each number of workers: last figures minus those of one process.

    Each difference is between runs of the same seed; a cell has their mean and spread.
    """
    metric = metric_of(runs)
    alone = {run["seed"]: run["curve"][-1][metric] for run in runs if run["name"] == "one"}
    if missing := {run["seed"] for run in runs} - alone.keys():
        raise SystemExit(f"--grid needs a run of one process (--modes one) for each seed. Missing: {sorted(missing)}.")
    columns = sorted({run["workers"] for run in runs if run["name"] != "one"})
    cells: dict[str, dict[Any, str]] = collections.defaultdict(dict)
    for name, workers, group in groups(runs):
        if name != "one":
            cells[name][workers] = spread([run["curve"][-1][metric] - alone[run["seed"]] for run in group], "+")
    lines = [f"| {metric} to one process | {' | '.join(map(str, columns))} |", "|---" * (1 + len(columns)) + "|"]
    return "\n".join(
        [*lines, *(f"| {name} | {' | '.join(row.get(n, '') for n in columns)} |" for name, row in cells.items())]
    )


def draw(runs: Sequence[dict[str, Any]], path: str) -> None:
    """The metric against examples and against time, a line for each way of training: means over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    metric = metric_of(runs)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for name, workers, group in groups(runs):
        for axis, over in zip(axes, ("examples", "seconds"), strict=True):
            points = list(zip(*(run["curve"] for run in group), strict=True))
            x = [statistics.mean(figures[over] for figures in at) for at in points]
            y = [statistics.mean(figures[metric] for figures in at) for at in points]
            axis.plot(x, y, "o-" if name == "one" else ".-", label=f"{name}, {workers}" if workers else name)
            axis.set(xlabel=over, ylabel=metric if over == "examples" else None)
            axis.grid(alpha=0.3)
    axes[1].legend(fontsize="x-small", title="mode, workers")
    figure.savefig(path, dpi=80)


def metric_of(runs: Sequence[dict[str, Any]]) -> str:
    """The figure that should be high."""
    return "spearman" if "spearman" in runs[0]["curve"][-1] else "auc"


def groups(runs: Iterable[dict[str, Any]]) -> list[tuple[str, int | str, list[dict[str, Any]]]]:
    """Groups runs that differ in their seed alone: name, workers, runs, in the order of first appearance."""
    found: dict[Any, list[dict[str, Any]]] = collections.defaultdict(list)
    for run in runs:
        found[name_of(run), "" if run["name"] == "one" else run["workers"]].append(run)
    return [(name, workers, group) for (name, workers), group in found.items()]


def name_of(run: dict[str, Any]) -> str:
    """How a run trained, in words."""
    name = f"geo {run['push_every']} {run['merge']}" if run["name"] == "geo" else run["name"]
    name += " overlapped" if run.get("overlap") else ""
    name += ", each" if run.get("repeated_ids") == "each" else ""
    name += f", dense every {run['exchange_every']}" if run.get("exchange_every") else ""
    return name if run["rate"] == 1.0 else f"{name}, rate x{run['rate']:g}"


def spread(values: Sequence[float], sign: str = "") -> str:
    """Mean +- half the range. One value stands for itself; a mean that is not finite is "diverged"."""
    mean = statistics.mean(values)
    if not math.isfinite(mean):
        return "diverged"
    half = f" +- {(max(values) - min(values)) / 2:.4f}" if len(values) > 1 else ""
    return f"{mean:{sign}.4f}{half}"
