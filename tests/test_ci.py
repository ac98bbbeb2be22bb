""".ci/run with a `make` that does no work: which stages it runs, and that one that fails fails the run."""

import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
STAGES = ["environment", "lint", "asan", "tsan", "test-together", "test-alone"]
MAKE = """#!/bin/sh
echo "make $1" >> made
[ "$1" != "$FAILING" ] || { echo "what went wrong"; exit 3; }
"""


@pytest.fixture
def run(tmp_path):
    """Runs a copy of .ci/run in a directory of its own: `run(failing="lint")`."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    (tmp_path / "make").write_text(MAKE)
    (tmp_path / "make").chmod(0o755)

    def start(failing=""):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "FAILING": failing}
        done = subprocess.run([tmp_path / ".ci/run"], env=environment, capture_output=True, text=True, timeout=60)
        made = re.findall("make (.*)", (tmp_path / "made").read_text())
        return done, made

    return start


def test_every_stage_runs_and_its_time_is_printed(run):
    done, made = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(made) == sorted(STAGES)
    assert made[0] == "environment" and made[-1] == "test-alone"
    assert re.findall(r"^(\S+) +\d+ +\d+   ok$", done.stdout, re.MULTILINE) == STAGES
    assert re.search(r"^total +\d+$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("failing", STAGES)
def test_a_stage_that_fails_fails_the_run_and_shows_why(run, failing):
    done, made = run(failing)
    assert done.returncode == 1
    assert "what went wrong" in done.stdout
    # Nothing can run without the environment; everything else runs, so that one run shows all that is wrong.
    assert len(made) == (1 if failing == "environment" else len(STAGES))


def test_the_stages_are_targets_of_the_makefile():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(STAGES) <= set(targets)
