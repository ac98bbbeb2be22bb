"""Metrics in programs of their own: several replicas and hosts, and a worker that is killed."""

import json
import os

import pytest

from tests import programs
from tests.replicas.test_hosts import free_ports

REPLICAS = ["-m", "tests.metrics.replicas_program"]
LIMIT_S = 600.0


def assert_right(found):
    for name, (right, *logs) in found.items():
        assert logs == pytest.approx([right] * len(logs), abs=1e-6), name


def last_line(text):
    return json.loads(text.splitlines()[-1])


@pytest.mark.slow
def test_replicas():
    done = programs.run(REPLICAS, env=dict(os.environ), timeout=LIMIT_S, check=True)
    found = last_line(done.stdout)
    assert set(found) == {"mirrored", "one"}
    for one in found.values():
        assert_right(one)


@pytest.mark.slow
def test_hosts(tmp_path):
    ports = [str(port) for port in free_ports(2)]
    started = []
    for index in ("0", "1"):
        with open(tmp_path / index, "w") as out, open(tmp_path / f"{index}.log", "w") as log:
            started.append(programs.start([*REPLICAS, index, *ports], env=dict(os.environ), stdout=out, stderr=log))
    try:
        for index, program in enumerate(started):
            assert program.wait(LIMIT_S) == 0, (tmp_path / f"{index}.log").read_text()[-3000:]
            assert_right(last_line((tmp_path / str(index)).read_text())["hosts"])
    finally:
        for program in started:
            program.kill()


@pytest.mark.slow
def test_a_worker_that_dies_changes_nothing():
    program = ["-m", "tests.metrics.death_program"]
    found = last_line(programs.run(program, env=dict(os.environ), timeout=LIMIT_S, check=True).stdout)
    assert found["killed"] and found["counted"][0] == found["counted"][1]
    assert_right(found["metrics"])
