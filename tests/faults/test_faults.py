"""Kills and stops at seeded random moments, in each mode: counts, leftovers and time limits.

`make test` runs a short form, `make test-faults` the whole; FAULT_SEEDS=10 runs ten seeds of each mode instead of two.
"""

import json
import os
import pathlib
import random

import pytest

from tests import programs

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = pathlib.Path(__file__).with_name("program.py")
KINDS = ["kill", "kill-all", "stop", "hang", "server", "broken", "saving"]
SEEDS = int(os.environ.get("FAULT_SEEDS", "2"))

LIMIT_S = 300.0
"""Seconds for a program of seven faults, on a busy machine. Each wait of the program has a limit of its own."""


def run(mode, seed, kinds):
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
    environment |= {"PYTHONPATH": str(ROOT), "TFPS_SILENCE_LIMIT_S": "2", "TFPS_MAX_RESTARTS": "20"}
    done = programs.run([str(PROGRAM), mode, str(seed), ",".join(kinds)], env=environment, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert found["wrong rows"] == 0, done.stderr[-3000:]
    assert found["steps"] == found["expected steps"]
    assert found["counted steps"] == found["batches"], found
    assert found["threads"] == [] and found["processes"] == []
    return done.stderr


def test_short_form():
    told = run("async", 2, ["kill-all", "hang"])
    assert told.count("It trains its input shard again") >= 3


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("mode", ["async", "geo", "overlap", "sync"])
def test_counts_are_exact(mode, seed):
    kinds = random.Random(seed).sample(KINDS, len(KINDS))
    run(mode, seed, kinds)
