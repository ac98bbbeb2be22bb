"""The convergence benchmark: how it judges, what its table says, and how its clusters share out the runs."""

import numpy as np
import pytest

from benchmarks import convergence, convergence_report
from benchmarks.convergence_tasks import area_under_curve


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([1, 2, 3, 4], 0.75), ([4, 3, 2, 1], 0.25), ([1, 1, 1, 1], 0.5), ([0, 1, 1, 2], 0.875), ([0, np.nan, 1, 2], 0.5)],
)
def test_area_under_curve_by_hand(scores, expected):
    assert area_under_curve(np.array([0, 1, 0, 1]), np.array(scores, float)) == expected


def run(name, seed, auc, workers=2, **settings):
    curve = [{"examples": 10, "seconds": 1.0, "auc": 0.5, "loss": 1.0}]
    curve.append({"examples": 20, "seconds": 2.0 + seed, "auc": auc, "loss": 0.25})
    defaults = {"push_every": None, "merge": None, "rate": 1.0}
    return {"name": name, "workers": workers, "seed": seed, "curve": curve, "task": "adult"} | defaults | settings


def test_the_table_compares_the_same_seeds():
    runs = [run("one", 0, 0.8), run("one", 1, 0.6), run("geo", 1, 0.59, push_every=20, merge="cap", workers=4)]
    rows = convergence_report.table(runs).splitlines()
    assert rows[2:] == [
        "| one |  | 0.7000 +- 0.1000 |  | 0.2500 +- 0.0000 | 2.5 |",
        "| geo 20 cap | 4 | 0.5900 | -0.0100 | 0.2500 | 3.0 |",
    ]


def test_the_grid_has_a_column_for_each_number_of_workers():
    runs = [run("one", 0, 0.8), run("one", 1, 0.6), *(run("async", 0, 0.75, workers=n) for n in (8, 2))]
    runs += [run("geo", seed, 0.65, push_every=20, merge="sum", overlap=True) for seed in (0, 1)]
    assert convergence_report.grid(runs).splitlines() == [
        "| auc to one process | 2 | 8 |",
        "|---|---|---|",
        "| async | -0.0500 | -0.0500 |",
        "| geo 20 sum overlapped | -0.0500 +- 0.1000 |  |",
    ]


def test_a_picture_is_small(tmp_path):
    runs = [run("one", 0, 0.8), run("async", 0, 0.7), run("geo", 0, 0.6, push_every=20, merge="cap", rate=1.4)]
    convergence_report.draw(runs, str(tmp_path / "curves.png"))
    assert 5_000 < (tmp_path / "curves.png").stat().st_size < 100_000


def test_what_needs_no_cluster_runs_once():
    args = convergence._parser().parse_args(["--data", "d", "--modes", "one", "geo", "--workers", "2", "4"])
    first, second = (
        convergence._parser().parse_args(convergence._of_workers(args, workers)) for workers in args.workers
    )
    assert (first.modes, first.workers) == (["one", "geo"], [2])
    assert (second.modes, second.workers) == (["geo"], [4])
