"""A program whose servers die, or that is ended itself: what is said, how soon, and what is left behind."""

import os
import pathlib
import signal
import time

import pytest

from tests import programs

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import sys, os, signal, keras, numpy as np, tensorflow as tf, tfps
strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=1, num_workers=2), dense_tables_bytes=0,
                                        dense=sys.argv[2])
print("pids", *[task.pid for task in strategy.cluster.tasks], flush=True)
with strategy.scope():
    model = keras.Sequential([keras.Input((4,), dtype="int64"), keras.layers.Embedding(1000, 8), keras.layers.Flatten(),
                              keras.layers.Dense(1)])
    model.compile("adagrad", "mse")

class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 50:
            print("training", flush=True)
            victims = [task for task in strategy.cluster.tasks if task.order.job == sys.argv[1]]
            if victims:
                os.kill(victims[-1].pid, signal.SIGKILL)

data = tf.data.Dataset.from_tensors((np.zeros((8, 4), "int64"), np.zeros((8, 1)))).repeat()
model.fit(data, steps_per_epoch=10_000_000, verbose=0, callbacks=[Kill()])
"""


@pytest.fixture
def program(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"} | {"PYTHONPATH": str(ROOT)}
    started = []

    def start(victim, dense="exchange"):
        with open(tmp_path / "out", "wb") as out, open(tmp_path / "err", "wb") as err:
            process = programs.start(["-c", PROGRAM, victim, dense], stdout=out, stderr=err, env=environment)
        started.append(process)
        return process

    def output():
        return (tmp_path / "out").read_text()

    def wait_for(word, limit_s=300):
        deadline = time.monotonic() + limit_s
        while True:
            over = started[-1].poll() is not None or time.monotonic() > deadline
            if word in output():
                return
            assert not over, (tmp_path / "err").read_text()[-3000:]
            time.sleep(0.1)

    start.output, start.wait_for, start.error = output, wait_for, lambda: (tmp_path / "err").read_text()
    yield start
    for process in started:
        process.kill()  # one that a failed test left, which would slow down all that follow
        process.wait()


def servers_left(output, limit_s=120):
    """Those pids of the printed line that still run after a while."""
    pids = output.splitlines()[0].split()[1:]
    assert len(pids) == 3
    deadline = time.monotonic() + limit_s
    while (left := [pid for pid in pids if runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def runs(pid):
    """Whether there is such a process; one that only waits to be reaped has ended."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_server_that_dies_is_named_with_its_log(program):
    process = program("ps")
    program.wait_for("training")
    assert process.wait(120) != 0  # far sooner than a closure counts as hung
    last = program.error().strip().split("ServerLostError")[-1]
    assert "ps 0" in last and "log" in last
    assert not servers_left(program.output())


def test_a_worker_that_dies_ends_an_all_reduce(program):
    """The other worker waits in an all-reduce; it neither hangs nor trains on alone."""
    process = program("worker", "allreduce")
    program.wait_for("training")
    assert process.wait(120) != 0
    last = program.error().strip().split("TaskDiedError")[-1]
    assert 'With dense="allreduce" the workers cannot continue' in last and "worker 1" in last
    assert not servers_left(program.output())


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        signal.SIGKILL,
    ],
)
def test_a_program_that_is_ended_leaves_nothing_behind(program, number):
    process = program("nobody")
    program.wait_for("training")
    process.send_signal(number)
    assert process.wait(120) != 0
    assert not servers_left(program.output())
