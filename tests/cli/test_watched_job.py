"""A job that is watched while a worker is killed: the board, the metrics of every task, and counts that are exact."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tests import programs
from tests.cli.terminals import Terminal

pytest.importorskip("rich", reason="needs rich")
pytest.importorskip("prometheus_client", reason="needs prometheus-client")

from prometheus_client.parser import text_string_to_metric_families as parse

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import json, os, sys, urllib.request
import keras, numpy as np, tensorflow as tf, tfps
from tfps.training.asynchronous import pacing
from tfps.training.pacing import Pace

SIZE, STOP = 16, sys.argv[1]
# Both workers train, although the model is young.
pacing.young_pace = lambda trained, workers, most, for_each: Pace(workers, most)

class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = os.path.exists(STOP)

with tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=1, num_workers=2), dense_tables_bytes=0) as strategy:
    with strategy.scope():
        model = keras.Sequential([
            keras.Input((4,), dtype="int64"), keras.layers.Embedding(5_000, 8), keras.layers.Flatten(),
            keras.layers.Dense(1),
        ])
        model.compile(optimizer="adagrad", loss="mse")
    ids = np.random.default_rng(0).integers(0, 5_000, (SIZE * 200, 4))
    data = tf.data.Dataset.from_tensor_slices((ids, np.ones((len(ids), 1), "float32"))).batch(SIZE)
    print("begins", flush=True)
    model.fit(data, epochs=100_000, verbose=0, callbacks=[Stop()])
    port = os.environ["TFPS_METRICS_PORT"]
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read().decode()
    print(json.dumps({"steps": int(model.optimizer.iterations), "metrics": text}), flush=True)
"""


def free_ports(count):
    """The first of so many ports in a row that nobody has."""
    for first in range(20_000 + os.getpid() % 10_000, 60_000, count):
        probes = []
        try:
            for port in range(first, first + count):
                probes.append(socket.create_server(("127.0.0.1", port)))
            return first
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
    raise AssertionError("no free ports")


def scrape(port):
    """The samples of a metrics port: {(name, labels): value}; None if nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            return samples_of(answer.read().decode())
    except OSError:
        return None


def samples_of(text):
    families = parse(text)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def wait_for(condition, what, limit_s=90):
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {limit_s} s for {what}"
        time.sleep(0.1)
    return found


@pytest.fixture
def job(tmp_path):
    """The program, its environment, its first port and its output; it ends with the test."""
    port = free_ports(4)
    env = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
    env |= {
        "PYTHONPATH": str(ROOT),
        "XDG_RUNTIME_DIR": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "TFPS_METRICS_PORT": str(port),
    }
    out = tmp_path / "out"
    with open(out, "wb") as output:
        program = programs.start(["-c", PROGRAM, str(tmp_path / "stop")], env=env, stdout=output, stderr=output)
    yield program, env, port, out
    program.kill()


def snapshot(env):
    """What `tfps-top --once --json` says."""
    done = subprocess.run(
        [sys.executable, "-m", "tfps.cli.top", "--once", "--json"], env=env, capture_output=True, text=True, timeout=60
    )
    return json.loads(done.stdout) if done.returncode == 0 else None


def trains(found):
    """Whether both workers have made some steps, and the rate, which two readings give, is known."""
    steps = found is not None and all(task["steps"] > 50 for task in found["tasks"] if task["job"] == "worker")
    return steps and found["steps_per_s"] > 0


def test_a_job_is_watched_while_a_worker_dies(job, tmp_path):
    program, env, port, out = job
    wait_for(lambda: "begins" in out.read_text(), "the program")
    before = wait_for(lambda: found if trains(found := snapshot(env)) else None, "both workers")
    assert before["steps_per_s"] > 0 and before["phase"] == "train" and before["pid"] == program.pid
    scraped = [scrape(port + number) for number in range(4)]
    for (task, index), samples in zip((("chief", 0), ("ps", 0), ("worker", 0), ("worker", 1)), scraped, strict=True):
        own = {key: value for key, value in samples.items() if key[1:3] in ((task, str(index)), (str(index), task))}
        assert any(name == "tfps_process_cpu_seconds_total" and value > 0 for (name, *_), value in own.items())
        assert any(name == "tfps_process_resident_memory_bytes" and value > 1e7 for (name, *_), value in own.items())

    board = Terminal(["-m", "tfps.cli.top", str(program.pid)], env)
    try:
        board.wait_for("losses of tasks: none")
        victim = next(task for task in before["tasks"] if (task["job"], task["index"]) == ("worker", 1))
        os.kill(victim["pid"], signal.SIGKILL)
        # The board tells of the loss, and of the return.
        board.wait_for("losses of tasks: 1")
        board.wait_for("worker 1: back after")
        # On a busy machine the worker may be back before any step has ended.
        after = wait_for(
            lambda: found if _is_back(found := snapshot(env), victim) and found["steps"] > before["steps"] else None,
            "the worker and more steps",
        )
        assert after["losses_count"] == 1 and after["losses"][0]["back_at"] > after["losses"][0]["at"]
        assert after["examples"] == 16 * after["steps"]
        again = wait_for(lambda: scrape(port + 3), "the metrics of the new worker")
        assert again["tfps_task_info", "1", "worker", _version()] == 1
        chief = scrape(port)
        for key, value in scraped[0].items():
            assert not key[0].endswith("_total") or chief[key] >= value, key
        assert chief["tfps_task_losses_total", "1", "worker"] == chief["tfps_task_restarts_total", "1", "worker"] == 1

        (tmp_path / "stop").touch()
        assert program.wait(90) == 0, out.read_text()[-3000:]
        assert board.wait() == 0
        assert "ENDED" in board.text
    finally:
        board.close()
    said = json.loads(next(line for line in out.read_text().splitlines() if line.startswith('{"steps"')))
    last = samples_of(said["metrics"])
    # Exact, although steps of the dead worker were repeated: whole epochs, each batch once.
    assert said["steps"] % 200 == 0
    assert sum(value for (name, *_), value in last.items() if name == "tfps_steps_total") == said["steps"]
    assert sum(value for (name, *_), value in last.items() if name == "tfps_examples_total") == 16 * said["steps"]


def _is_back(found, victim):
    if found is None:
        return False
    task = next(task for task in found["tasks"] if (task["job"], task["index"]) == ("worker", 1))
    return task["status"] == "up" and task["restarts"] == 1 and task["pid"] != victim["pid"]


def _version():
    from tfps.version import __version__

    return __version__
