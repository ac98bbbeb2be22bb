"""Small jobs learn with several workers what they learn in one process."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]


def test_the_jobs_have_rules_that_do_not_depend_on_the_draw():
    from benchmarks.small_jobs import JOBS

    for name, job in JOBS.items():
        x, y = job.draw(np.random.default_rng(3), 400)
        again, _ = job.draw(np.random.default_rng(3), 400)
        np.testing.assert_array_equal(x, again)
        assert len(x) == len(y) == 400 and set(y) == {0.0, 1.0}, name
        assert 0.3 < y.mean() < 0.7, (name, y.mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense", "images", "series", "bags", "text"])
def test_several_workers_learn_what_one_process_does(name):
    """Ten seeds, 60 to 500 batches, Adam and SGD with momentum. Four workers: two give the same."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.small_jobs", "--tasks", name, "--workers", "4"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=3600, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(found) == 2 * 3
    assert all(line["one_process"] > 0.6 for line in found if line["batches"] == 500)
    assert not [line for line in found if abs(line["difference"]) > 0.01]
