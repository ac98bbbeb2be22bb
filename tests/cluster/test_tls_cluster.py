"""A cluster of four hosts under mutual TLS: it trains, has one open port a host, and survives what it should."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.cluster.launched import launch
from tests.cluster.namespaces import network

ROOT = pathlib.Path(__file__).parents[2]
authority = pytest.importorskip("tfps.cluster.tls.authority", reason="needs cryptography (pip install tfps[tls])")

TASKS = ("chief", "ps", "worker0", "worker1")
PORT = 2222

CHIEF = """
import os, sys, keras, numpy as np, tfps
strategy = tfps.ParameterServerStrategy(dense_tables_bytes=0)
with strategy.scope():
    layers = [keras.Input((3,), dtype="int64"), keras.layers.Embedding(100, 4), keras.layers.Flatten()]
    model = keras.Sequential([*layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adagrad(0.1), loss="mse")
ids = np.random.default_rng(0).integers(0, 100, (320, 3))
def train():
    model.fit(ids, ids[:, :1] % 2, batch_size=8, epochs=2, verbose=0)
    print("trained", int(model.optimizer.iterations.numpy()), flush=True)
train()
sys.stdin.readline()
train()
"""

SCAN = """
import socket, sys
def is_open(port):
    with socket.socket() as one:
        one.settimeout(1)
        return one.connect_ex((sys.argv[1], port)) == 0
print([port for port in range(1, 65536) if is_open(port)])
"""


@pytest.fixture
def hosts():
    if not any(map(shutil.which, ("stunnel4", "stunnel"))):
        pytest.skip("needs stunnel (Debian: stunnel4)")
    with network(*TASKS, "other") as net:
        yield net


def start(net, task, tasks, directory, program):
    """Starts a task on its host, with its output in a file."""
    cluster = {"chief": [], "ps": [], "worker": []}
    for name in tasks:
        cluster[name.rstrip("01")].append(f"{net.address(name)}:{PORT}")
    job, index = task.rstrip("01"), int(task[-1]) if task[-1].isdigit() else 0
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | {
        "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": job, "index": index}}),
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    command = net.inside(task, *launch("--tls", str(directory / net.address(task)), program))
    with open(directory / f"{task}.log", "w") as log:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, env=environment)


def wait_for(path, text, process, timeout_s=240):
    """Waits for a text in the output of a process, while that runs."""
    deadline = time.monotonic() + timeout_s
    while text not in path.read_text() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert text in path.read_text(), path.read_text()


def scan(net, host):
    command = net.inside("other", sys.executable, "-S", "-c", SCAN, net.address(host))
    return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=200, check=True).stdout)


@contextlib.contextmanager
def running(net, tasks, directory):
    """Starts the tasks on their hosts; the chief trains, and trains again after a line on its standard input."""
    authority.write_certificates(directory, [net.address(task) for task in tasks], 1)
    program = directory / "train.py"
    program.write_text(CHIEF)
    started = {task: start(net, task, tasks, directory, str(program)) for task in tasks}
    try:
        yield started, {task: directory / f"{task}.log" for task in tasks}
    finally:
        for process in started.values():
            process.kill()
            process.communicate()


def train_again(chief):
    chief.stdin.write("\n")
    chief.stdin.flush()


def test_hosts_train_by_tls_alone_and_have_one_open_port(hosts, tmp_path, processes):
    tasks = ("chief", "ps", "worker0")
    with running(hosts, tasks, tmp_path) as (started, logs):
        wait_for(logs["chief"], "trained 80", started["chief"])
        assert scan(hosts, "ps") == [PORT]
        # A tunnel that is killed comes back, and the connections through it.
        (tunnel,) = processes.descendants(started["ps"].pid)
        os.kill(tunnel, signal.SIGKILL)
        wait_for(logs["ps"], "the TLS tunnel of ps 0 is up again", started["ps"])
        train_again(started["chief"])
        wait_for(logs["chief"], "trained 160", started["chief"])
        assert [started[task].wait(120) for task in tasks] == [0, 0, 0]
        for task in ("ps", "worker0"):
            assert f"ends: the chief at {hosts.address('chief')}:{PORT} is done" in logs[task].read_text()
        # The scan is named; no task was.
        away = [line for line in logs["ps"].read_text().splitlines() if "turned away" in line]
        assert all(f"turned away {hosts.address('other')}:" in line for line in away)


@pytest.mark.slow
def test_tasks_that_are_killed_take_their_tunnels_along(hosts, tmp_path, processes):
    with running(hosts, TASKS, tmp_path) as (started, logs):
        wait_for(logs["chief"], "trained 80", started["chief"])
        assert [scan(hosts, task) for task in TASKS] == [[PORT]] * 4
        below = processes.descendants(started["worker1"].pid)
        started["worker1"].kill()
        assert below and processes.wait_until_gone(below)
        train_again(started["chief"])
        # The other worker goes on. Then the servers see the end of a chief that is killed.
        wait_for(logs["chief"], "trained 160", started["chief"])
        below = [pid for task in TASKS for pid in processes.descendants(started[task].pid)]
        started["chief"].kill()
        assert [started[task].wait(120) for task in ("ps", "worker0")] == [0, 0]
        assert processes.wait_until_gone(below)
