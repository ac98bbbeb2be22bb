"""The chief is killed at every kind of moment and started again: each record counts once in what is restored."""

import json
import os
import pathlib
import signal
import time

import numpy as np
import pytest

from tests import programs
from tests.streaming.counting import ROWS, expected, write_many

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import json, logging, os, pathlib, signal, sys
import keras, tensorflow as tf, tfps
from tests.streaming.counting import counts, make_model, parse
from tfps.saving.folders import LocalDraft, LocalFolder

folder, place, within = pathlib.Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])

def die(*args, **kwargs):
    os.kill(os.getpid(), getattr(signal, "SIGTERM" if place == "signal" else "SIGKILL"))

def patch(owner, name, before):
    stock = getattr(owner, name)
    def patched(self, *args):
        if before:
            die()
        result = stock(self, *args)
        die()
        return result
    setattr(owner, name, patched)

class Kill(keras.callbacks.Callback):
    killed = False
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
    def on_train_batch_end(self, batch, logs=None):
        if place in ("ps", "worker") and (self.epoch, batch) == (3, 4) and not self.killed:
            self.killed = True
            task = next(task for task in cluster.tasks if task.order.job == place)
            os.kill(task.pid, signal.SIGKILL)
        if place in ("batch", "signal") and batch == 7:
            die()
    def on_epoch_end(self, epoch, logs=None):
        if place == "epoch end":
            die()

if place == "draft":
    patch(LocalDraft, "finish", True)
if place == "renamed":
    patch(LocalDraft, "finish", False)
if place == "latest":
    patch(LocalFolder, "set_latest", False)
if place == "removing":
    patch(LocalFolder, "remove", True)

if place == "told":
    logging.basicConfig(filename=folder / "log", level=logging.INFO)

cluster = tfps.LocalCluster(num_ps=1, num_workers=2)
strategy = tfps.ParameterServerStrategy(cluster, dense_tables_bytes=0)
model = make_model(strategy)
if place == "ps test":
    stock = model.evaluate
    def evaluate(*args, **kwargs):
        if not Kill.killed and (folder / "run" / "latest").exists():
            Kill.killed = True
            os.kill(next(task for task in cluster.tasks if task.order.job == "ps").pid, signal.SIGKILL)
        return stock(*args, **kwargs)
    model.evaluate = evaluate
if place == "test":
    stock = model.evaluate
    model.evaluate = lambda *args, **kwargs: (stock(*args, **kwargs), die())[0]
topic, servers = within.pop("topic", None), within.pop("servers", None)
if topic:
    parse = lambda messages: messages.map(lambda one: (tf.strings.to_number(one["value"], tf.int64), 0.0)).batch(8)
    source, window = tfps.streaming.Kafka(topic, servers, parse, poll_s=0.1), 80
else:
    source, window = tfps.streaming.Files(folder / "in" / "*.csv", parse, settle_s=0, poll_s=0.1), 2
checkpoint = tfps.streaming.WindowCheckpoint(folder / "run", **within)
logs = tfps.streaming.fit(model, source, window=window, checkpoint=checkpoint, windows=8, callbacks=[Kill()])
(folder / "done.json").write_text(json.dumps({"counts": counts(model), "windows": len(logs)}))
"""


def run(folder, place, within):
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | {"PYTHONPATH": str(ROOT)}
    return programs.run(["-c", PROGRAM, str(folder), place, json.dumps(within)], env=environment, timeout=600)


def kill_and_finish(folder, places, within):
    """Runs the program, which ends in one place after the other, and then once to its end."""
    for place in places:
        ended = run(folder, place, within)
        assert ended.returncode == (75 if place == "signal" else -9), (place, ended.stderr[-3000:])
    return finish(folder, "nowhere", within)


def finish(folder, place, within):
    ended = run(folder, place, within)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads((folder / "done.json").read_text())


def saved_state(folder):
    latest = folder / "run" / (folder / "run" / "latest").read_text().strip()
    return json.loads((latest / "manifest.json").read_text())["progress"]["stream"]


@pytest.mark.parametrize(
    "places",
    [
        ["batch", "draft", "renamed"],
        pytest.param(["test", "epoch end", "latest", "batch", "removing"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_each_record_counts_once_after_kills_between_checkpoints(tmp_path, places):
    ids = write_many(tmp_path / "in", 16, 40)
    done = kill_and_finish(tmp_path, places, {"keep": 2})
    assert done["counts"] == expected(ids)
    # "renamed", "latest" and "removing" have saved their windows.
    assert done["windows"] < 8


def test_a_window_goes_on_within_after_kills_and_a_signal(tmp_path):
    ids = write_many(tmp_path / "in", 16, 40)
    within = {"every_steps": 3, "full_every": 3}
    assert run(tmp_path, "batch", within).returncode == -9
    # Batch 7 of 10 was under way: three and three are saved, with the rest of the window and what its test gave.
    state = saved_state(tmp_path)
    assert [pathlib.Path(part).name for part in state["window"]["parts"]] == ["000.csv", "001.csv"]
    assert set(state["tested"]) == {"test_loss"}
    assert kill_and_finish(tmp_path, ["signal", "epoch end"], within)["counts"] == expected(ids)


@pytest.mark.slow
@pytest.mark.parametrize("every_steps", [None, 3])
def test_messages_count_once_after_kills(tmp_path, every_steps):
    from tests.streaming.brokers import Brokers

    brokers = Brokers()
    topic = brokers.topic()
    ids = brokers.send(topic, np.random.default_rng(0).integers(0, ROWS, 640))
    within = {"topic": topic, "servers": brokers.servers, "every_steps": every_steps}
    places = ["batch", "renamed", "signal"] if every_steps else ["test", "batch", "latest"]
    assert kill_and_finish(tmp_path, places, within)["counts"] == expected(ids)


@pytest.mark.parametrize(
    ("place", "every_steps"),
    [
        ("ps", None),
        pytest.param("ps", 3, marks=pytest.mark.slow),
        pytest.param("ps test", None, marks=pytest.mark.slow),
        ("ps test", 3),
        pytest.param("worker", 3, marks=pytest.mark.slow),
    ],
)
def test_a_task_that_dies_is_replaced_and_the_window_goes_on(tmp_path, place, every_steps):
    ids = write_many(tmp_path / "in", 16, 40)
    done = finish(tmp_path, place, {"every_steps": every_steps})
    assert done["counts"] == expected(ids) and done["windows"] == 8


def test_a_signal_ends_the_wait_for_a_window(tmp_path):
    (tmp_path / "in").mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | {"PYTHONPATH": str(ROOT)}
    program = programs.start(["-c", PROGRAM, str(tmp_path), "told", "{}"], env=environment, stderr=2)
    try:
        log, deadline = tmp_path / "log", time.monotonic() + 120
        while not (log.exists() and "waits for" in log.read_text()):
            assert program.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == 75
    finally:
        program.kill()
