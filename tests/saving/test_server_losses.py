"""A parameter server that is killed during `fit`: with a Checkpoint callback the same program goes on, counts kept."""

import json
import os
import pathlib

import pytest

from tests import programs

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import json, os, signal, sys, tempfile
import keras, numpy as np, tensorflow as tf, tfps
from tfps.callbacks import Checkpoint

ROWS, SIZE = 2400, 40
ids = np.arange(ROWS)[:, np.newaxis]
data = tf.data.Dataset.from_tensor_slices((ids, np.zeros((ROWS, 1, 1), "float32"))).shuffle(99).batch(SIZE)
strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=2, num_workers=2), dense_tables_bytes=0)

class Kill(keras.callbacks.Callback):
    def __init__(self, after, server):
        super().__init__()
        self.left, self.server = after, server

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            servers = [task for task in strategy.cluster.tasks if task.order.job == "ps"]
            os.kill(servers[self.server].pid, signal.SIGKILL)

MODES = {
    "asynchronous": lambda one: one,
    "geo": lambda one: tfps.optimizers.Geo(one, push_every=2, merge="sum"),
    "sync": tfps.optimizers.Sync,
}

def fit(mode, recovery, *callbacks, x=data, folder=None):
    with strategy.scope():
        table = keras.layers.Embedding(ROWS, 1, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((1,), dtype="int64"), table])
        # SGD at rate 1 counts how often an id was trained.
        model.compile(MODES[mode](keras.optimizers.SGD(1.0)), lambda y, rows: -keras.ops.sum(rows))
    checkpoint = Checkpoint(folder or tempfile.mkdtemp(), every_steps=16, recovery=recovery)
    history = model.fit(x, epochs=3, verbose=0, callbacks=[checkpoint, *callbacks])
    return model, history

for number, case in enumerate(sys.argv[1:]):
    mode, recovery = case.split(":")
    # Under way in the second epoch, after four checkpoints.
    model, history = fit(mode, recovery, Kill(75 + number, number % 2))
    counts = np.unique(model.get_weights()[0], return_counts=True)
    print(json.dumps({
        "case": case, "counts": dict(zip(map(float, counts[0]), map(int, counts[1]))),
        "epochs": history.epoch, "losses": len(history.history["loss"]), "steps": int(model.optimizer.iterations),
    }), flush=True)

# Before the first checkpoint there is nothing to restore, and the end is a clear one.
try:
    fit("asynchronous", "consistent", Kill(3, 0))
except tfps.errors.ServerLostError as error:
    print(json.dumps({"ended": str(error).splitlines()[0]}), flush=True)
"""


def run(*cases):
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | {"PYTHONPATH": str(ROOT)}
    done = programs.run(["-c", PROGRAM, *cases], env=environment | {"TFPS_MAX_RESTARTS": "50"}, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    *results, ended = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert "SIGKILL" in ended["ended"]
    return done.stderr, {result.pop("case"): result for result in results}


def test_fit_goes_on_with_a_new_server_and_trains_each_batch_once():
    log, results = run("asynchronous:consistent", "sync:consistent")
    whole = {"epochs": [0, 1, 2], "losses": 3}
    assert results["asynchronous:consistent"] == {"counts": {"3.0": 2400}, "steps": 180, **whole}
    # The mean over two workers.
    assert results["sync:consistent"] == {"counts": {"1.5": 2400}, "steps": 90, **whole}
    assert "server 0: all rows go back by" in log and "steps, which are trained again" in log


@pytest.mark.slow
def test_only_what_was_lost_goes_back():
    log, results = run("geo:consistent", "asynchronous:partial", "geo:partial")
    assert results["geo:consistent"]["counts"] == {"3.0": 2400}
    for case in ("asynchronous:partial", "geo:partial"):
        counts = {float(count): rows for count, rows in results[case]["counts"].items()}
        # A server's half at most has lost what at most 16 batches, and those under way, gave it.
        assert sum(rows for count, rows in counts.items() if count < 3) <= (16 + 8) * 40
        # Closures that had reached the other server when they failed are made again.
        assert sum(rows for count, rows in counts.items() if count > 3) <= 8 * 40
    assert "1200 rows there have lost what" in log
