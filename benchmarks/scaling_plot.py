"""The picture of docs/scaling.md: examples a second against workers, for a few ways to run the same job."""

import dataclasses
from collections.abc import Sequence

from benchmarks.scaling_model import Costs, Hosts, Job, project

_WORKERS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def draw(costs: Costs, ways: Sequence[tuple[str, Job]], path: str) -> None:
    """Draws a line for each way to run the job, with a mark where another bound begins to bind.

    Args:
        costs: the constants.
        ways: label and job; its workers are replaced.
        path: the picture, .png or .svg.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for label, job in ways:
        found = [project(costs, dataclasses.replace(job, workers=n), Hosts()) for n in _WORKERS]
        (line,) = axes.loglog(_WORKERS, [one.examples_per_s for one in found], label=label)
        for before, one, workers in zip([None, *found], found, _WORKERS, strict=False):
            if before is not None and one.binds != before.binds:
                axes.plot(workers, one.examples_per_s, "o", color=line.get_color())
                axes.annotate(
                    one.binds, (workers, one.examples_per_s), (4, -11), textcoords="offset points", fontsize=8
                )
    axes.set(xlabel="workers", ylabel="examples a second, at most")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path)
