"""The model of the cluster: what binds where it is known, monotone where it must be, constants found again."""

import dataclasses
import itertools
import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import scaling
from benchmarks.doublings import Shape, _growth
from benchmarks.scaling_fit import Run, fit
from benchmarks.scaling_model import Costs, Hosts, Job, bytes_per_step, cpu_ms, project, server_bytes, step_ms

ROOT = pathlib.Path(__file__).parents[2]
COSTS = Costs(
    chief_ms_per_closure=1.0,
    chief_ms_per_step=0.1,
    chief_ms_per_callback=0.4,
    server_ms_per_request=0.5,
    server_ms_per_row=0.001,
    server_ms_per_closure=4.0,
    worker_ms_per_step=0.3,
    worker_ms_per_request=0.5,
    worker_ms_per_example=0.02,
    worker_ms_per_closure=6.0,
    bytes_per_request=500.0,
    bytes_per_row=100.0,
    bytes_per_closure=3.2e6,
    delays_per_step=3.0,
    delays_per_closure=4.0,
    server_base_bytes=5e8,
)
JOB = Job(workers=4, servers=2, rows=1e6, batch=512, unique_rows=3000, steps_per_closure=32, steps_per_callback=32)
HOSTS = Hosts()


def change(value, **fields):
    return dataclasses.replace(value, **fields)


def test_a_step_is_the_sum_of_its_parts():
    assert cpu_ms(COSTS, JOB) == pytest.approx(
        {"chief": 0.1 + 1.4 / 32, "workers": 1.3 + 10.24 + 6 / 32, "servers": 1.0 + 3.0 + 4 / 32}
    )
    assert bytes_per_step(COSTS, JOB) == pytest.approx(1000 + 300_000 + 100_000)
    assert server_bytes(COSTS, JOB) == 5e8 + 1e6 * 10 * 4 * 2 / 2
    busy = 1.3 + 10.24 + 6 / 32 + (4 + 4 / 32) / 2 + 1 / 32
    assert step_ms(COSTS, JOB, HOSTS) == pytest.approx(busy + 1000 * 401_000 / 4 * 8 / 10e9 + (3 + 4 / 32) * 0.1)


@pytest.mark.parametrize(
    ("binds", "job", "hosts"),
    [
        ("workers", JOB, HOSTS),
        ("chief", change(JOB, workers=1000, servers=100, steps_per_closure=1), HOSTS),
        ("server CPU", change(JOB, workers=1000, servers=1), change(HOSTS, server_cores=2, server_gbit_s=100)),
        ("server network", change(JOB, workers=1000, servers=4), change(HOSTS, server_gbit_s=0.1)),
        ("server memory", change(JOB, rows=1e11), HOSTS),
        ("cores", JOB, change(HOSTS, shared_cores=2)),
    ],
)
def test_what_binds_is_named(binds, job, hosts):
    projected = project(COSTS, job, hosts)
    assert projected.binds == binds
    assert projected.steps_per_s == projected.bounds[binds] == min(projected.bounds.values())
    assert projected.examples_per_s == projected.steps_per_s * job.batch


def test_memory_is_enough_on_a_hundred_servers():
    projected = project(COSTS, change(JOB, rows=1e11, servers=100), HOSTS)
    assert projected.server_bytes == pytest.approx(80.5e9) and projected.binds != "server memory"


@pytest.mark.parametrize(
    ("field", "values"),
    [("workers", (1, 2, 10, 100, 1000)), ("steps_per_closure", (1, 2, 32, 1000))],
)
def test_more_of_a_good_thing_never_slows(field, values):
    found = [project(COSTS, change(JOB, **{field: value}), HOSTS).steps_per_s for value in values]
    assert all(after >= before for before, after in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("field", "values"),
    [("server_cores", (1, 4, 16)), ("server_gbit_s", (0.01, 1, 100)), ("speed", (0.5, 1, 2))],
)
def test_better_machines_never_slow(field, values):
    job = change(JOB, workers=1000)
    found = [project(COSTS, job, change(HOSTS, **{field: value})).steps_per_s for value in values]
    assert all(after >= before for before, after in itertools.pairwise(found))


def test_more_servers_than_needed_cost_requests():
    """Each server is asked in each step, so the worker of a small batch pays for servers that it has no use for."""
    assert step_ms(COSTS, change(JOB, servers=100), HOSTS) > step_ms(COSTS, JOB, HOSTS)


def test_delay_slows_by_the_messages_that_are_waited_for():
    near, far = (step_ms(COSTS, JOB, change(HOSTS, delay_ms=ms)) for ms in (0.0, 2.0))
    assert far - near == pytest.approx(2 * (3 + 4 / 32))


def test_constants_are_found_again():
    jobs = [
        change(JOB, servers=s, batch=b, unique_rows=6 * b, steps_per_closure=k, steps_per_callback=1)
        for s, b, k in SHAPES
    ]
    runs = [Run(job, cpu_ms(COSTS, job), bytes_per_step(COSTS, job), 1.0) for job in jobs]
    found = fit(
        runs,
        {steps: 0.1 + 1.4 / steps for steps in (1, 10, 100)},
        (COSTS.delays_per_step, COSTS.delays_per_closure),
        COSTS.server_base_bytes,
    )
    assert dataclasses.asdict(found) == pytest.approx(dataclasses.asdict(COSTS), rel=1e-3)


SHAPES = [(1, 512, 32), (1, 512, 4), (1, 4096, 32), (2, 512, 32)]


def test_no_constant_is_negative():
    jobs = [change(JOB, servers=s, batch=b, steps_per_closure=k) for s, b, k in SHAPES]
    noisy = [{"chief": 1.5 - 0.2 * job.servers, "workers": 5 / job.servers, "servers": 3.0} for job in jobs]
    runs = [Run(job, cpu, 1e6 / job.servers, 1.0) for job, cpu in zip(jobs, noisy, strict=True)]
    assert min(dataclasses.asdict(fit(runs, {1: 1.5, 10: 0.2}, (1.0, 1.0), 0.0)).values()) >= 0


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="workers.*Received: 0"):
        change(JOB, workers=0)
    with pytest.raises(ValueError, match="bytes_per_row.*Received: -1"):
        change(COSTS, bytes_per_row=-1)


@pytest.mark.slow
def test_measured_constants_predict_other_clusters(tmp_path):
    """The command of docs/scaling.md, with short runs: its limits are wide, because others may use this machine."""
    options = ["--measure", "--check", "--delays-of", str(ROOT / "docs" / "scaling_constants.json")]
    options += ["--rounds", "1", "--seconds", "1", "--cpu-within", "0.6"]
    command = [sys.executable, "-m", "benchmarks.scaling", str(tmp_path / "constants.json"), *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    worst = json.loads(ended.stdout.splitlines()[-1])["worst"]
    assert worst["cpu"] > 0 and 0 < worst["bytes"] < 0.05


def test_one_of_the_commands_must_be_given(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks.scaling", "constants.json"])
    with pytest.raises(SystemExit) as ended:
        scaling.main()
    assert ended.value.code == 2 and "one of --measure, --check and --project" in capsys.readouterr().err


def test_doublings_are_compared_one_by_one():
    found = {
        Shape("servers", 1, count, 64, 8): {"cpu_ms_a_step": ms} for count, ms in ((1, 10.0), (2, 11.0), (4, 22.0))
    }
    assert _growth(found) == {"1 to 2": 1.1, "2 to 4": 2.0}
