"""Two processes with two logical devices each give what one device gives; restarts; a member that is killed."""

import json
import os
import socket
import time

import keras
import numpy as np
import pytest

from tests import programs
from tests.replicas.small_model import difference, log_difference

LIMIT_S = 600.0


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def started():
    running = []
    yield running
    for program in running:
        program.kill()


def start(started, folder, what, index, ports=(), devices=1):
    program = ["-m", "tests.replicas.hosts_program", str(folder), what, str(index)]
    with open(folder / f"{what} {index}.log", "w") as log:
        arguments = [*program, ",".join(map(str, ports)), str(devices)]
        started.append(programs.start(arguments, env=dict(os.environ), stdout=log, stderr=log))
    return started[-1]


def run(started, folder, what, devices=1, one=True, status=0):
    """Runs two workers, and one device beside them."""
    ports = free_ports(2)
    processes = [start(started, folder, what, index, ports, devices) for index in (0, 1)]
    names = [f"{what} {index}" for index in (0, 1)]
    if one:
        processes.append(start(started, folder, "whole" if what == "restart" else what, "one"))
        names.append("whole one" if what == "restart" else f"{what} one")
    for name, process in zip(names, processes, strict=True):
        log = folder / f"{name}.log"
        assert process.wait(LIMIT_S) == (0 if name.endswith("one") else status), log.read_text()[-5000:]


def arrays(folder, name):
    with np.load(folder / f"{name}.npz") as saved:
        return [saved[key] for key in saved.files]


def test_two_hosts_give_what_one_device_gives(started, tmp_path):
    run(started, tmp_path, "learn", devices=2)
    one = json.loads((tmp_path / "one.json").read_text())
    for name in ("worker 0", "worker 1"):
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["steps"] == one["steps"] == 12
        assert log_difference(one["logs"], found["logs"]) < 2e-6
        assert found["means"] == [49.0, 49.0]
        assert difference(arrays(tmp_path, "one"), arrays(tmp_path, name)) < 2e-6
    # Plain Keras reads what the strategy saved, the optimizer included.
    loaded = keras.models.load_model(tmp_path / "saved.keras")
    assert int(loaded.optimizer.iterations) == 12
    np.testing.assert_array_equal(loaded.get_weights()[0], arrays(tmp_path, "worker 0")[1])


def test_an_epoch_ends_when_no_host_has_a_batch(started, tmp_path):
    run(started, tmp_path, "uneven", one=False)
    found = [json.loads((tmp_path / f"worker {index}.json").read_text()) for index in (0, 1)]
    assert found[0] == found[1]
    # Each worker has halves of batches of 10: ten of 5 examples, and five.
    assert found[0]["steps"] == 10


def test_a_restart_goes_on_as_if_nothing_had_happened(started, tmp_path):
    run(started, tmp_path, "restart", one=False, status=7)
    run(started, tmp_path, "restart")
    for name in ("worker 0", "worker 1"):
        # The epochs too.
        assert difference(arrays(tmp_path, "one"), arrays(tmp_path, name)) < 2e-6


def test_a_killed_member_ends_the_others(started, tmp_path):
    ports = free_ports(2)
    first, second = (start(started, tmp_path, "endless", index, ports) for index in (0, 1))
    deadline = time.monotonic() + LIMIT_S
    while not (tmp_path / "worker 0.begun").exists():
        assert time.monotonic() < deadline and first.poll() is None, (tmp_path / "endless 0.log").read_text()[-3000:]
        time.sleep(0.2)
    second.kill()
    assert first.wait(LIMIT_S) != 0
    log = (tmp_path / "endless 0.log").read_text()
    assert "ClusterError: a worker of the strategy has ended" in log, log[-3000:]
    assert "task:1" in log
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", ports[0]), 5)
