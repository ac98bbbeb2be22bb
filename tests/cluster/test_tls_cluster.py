"""A cluster of four hosts under mutual TLS: it trains, has one open port a host, and survives what it should."""

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


def start(net, task, directory, program):
    """Starts a task on its host, with its output in a file."""
    address = {name: f"{net.address(name)}:{PORT}" for name in TASKS}
    cluster = {"chief": [address["chief"]], "ps": [address["ps"]], "worker": [address["worker0"], address["worker1"]]}
    job, index = task.rstrip("01"), int(task[-1]) if task[-1].isdigit() else 0
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | {
        "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": job, "index": index}}),
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    command = net.inside(task, *launch("--tls", str(directory / net.address(task)), program))
    with open(directory / f"{task}.log", "w") as log:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, env=environment)


def wait_for(path, text, timeout_s=240):
    deadline = time.monotonic() + timeout_s
    while text not in path.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert text in path.read_text(), path.read_text()


def scan(net, host):
    command = net.inside("other", sys.executable, "-S", "-c", SCAN, net.address(host))
    return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=200, check=True).stdout)


def test_four_hosts_train_by_tls_alone(hosts, tmp_path, processes):
    authority.write_certificates(tmp_path, [hosts.address(task) for task in TASKS], 1)
    program = tmp_path / "train.py"
    program.write_text(CHIEF)
    running = {task: start(hosts, task, tmp_path, str(program)) for task in TASKS}
    logs = {task: tmp_path / f"{task}.log" for task in TASKS}
    try:
        wait_for(logs["chief"], "trained 80")
        assert [scan(hosts, task) for task in ("chief", "ps", "worker0")] == [[PORT]] * 3
        # A tunnel that is killed comes back, and the connections through it.
        (tunnel,) = processes.descendants(running["ps"].pid)
        os.kill(tunnel, signal.SIGKILL)
        wait_for(logs["ps"], "the TLS tunnel of ps 0 ended by SIGKILL")
        # A worker that is killed takes its tunnel along, and the others go on.
        below = processes.descendants(running["worker1"].pid)
        running["worker1"].send_signal(signal.SIGKILL)
        assert below and processes.wait_until_gone(below)
        running["chief"].stdin.write("\n")
        running["chief"].stdin.flush()
        wait_for(logs["chief"], "trained 160")
        assert [running[task].wait(120) for task in ("chief", "ps", "worker0")] == [0, 0, 0]
        for task in ("ps", "worker0"):
            assert f"ends: the chief at {hosts.address('chief')}:{PORT} is done" in logs[task].read_text()
            # The scan is named; no task was.
            away = [line for line in logs[task].read_text().splitlines() if "turned away" in line]
            assert all(f"turned away {hosts.address('other')}:" in line for line in away)
    finally:
        for process in running.values():
            process.kill()
            process.communicate()
