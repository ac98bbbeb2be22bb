"""Workers that are killed in between: others do their part, they come back, and each update counts once."""

import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tests import programs

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import json, os, signal, sys, threading, time, keras, numpy as np, tensorflow as tf, tfps

from tfps.training.asynchronous import pacing
from tfps.training.pacing import Pace

ROWS, BATCHES, SIZE = 300, 120, 8
# All six workers train, although the model is young.
pacing.young_pace = lambda trained, workers, most, for_each: Pace(workers, most)

class Gradient(keras.losses.Loss):
    # Its gradient does not depend on the weights: -1 for every element, or that divided by the examples.
    def __init__(self, mean):
        super().__init__(reduction=None)
        self.mean = mean

    def call(self, y_true, y_pred):
        total = -keras.ops.sum(y_pred)
        return total / SIZE if self.mean else total

class Examples(keras.metrics.Sum):
    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(keras.ops.ones((keras.ops.shape(y_pred)[0],)))

class Kill(keras.callbacks.Callback):
    # In the middle of the second of three epochs.
    def __init__(self, victim):
        super().__init__()
        self.victim, self.seen = victim, 0

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        if self.seen == BATCHES + BATCHES // 2:
            task = next(t for t in strategy.cluster.tasks if (t.order.job, t.order.index) == ("worker", self.victim))
            os.kill(task.pid, signal.SIGKILL)

MODES = {
    "async": (lambda: keras.optimizers.SGD(1.0), False),
    "geo": (lambda: tfps.optimizers.Geo(keras.optimizers.SGD(1.0), push_every=5, merge="sum"), False),
    "overlap": (lambda: tfps.optimizers.Geo(keras.optimizers.SGD(1.0), push_every=5, merge="sum", overlap=True), False),
    "async, overlap": (lambda: keras.optimizers.SGD(1.0), False),
    "sync": (lambda: tfps.optimizers.Sync(keras.optimizers.SGD(float(SIZE))), True),
}
strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=2, num_workers=6), dense_tables_bytes=0)
ids = np.random.default_rng(0).integers(0, ROWS, (BATCHES * SIZE, 2))
data = tf.data.Dataset.from_tensor_slices((ids, np.zeros((len(ids), 2, 4), "float32")))
data = data.shuffle(len(ids), seed=1).batch(SIZE)
for victim, mode in enumerate(sys.argv[1:], start=1):
    optimizer, mean = MODES[mode]
    strategy.overlap_dense_exchange = "async" in mode and "overlap" in mode
    with strategy.scope():
        table = keras.layers.Embedding(ROWS, 4, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((2,), dtype="int64"), table])
        model.compile(optimizer(), Gradient(mean), metrics=[Examples(name="examples")])
    # Where nobody knows how many batches there are, a closure has the most steps: a turn of the loop and what is left.
    given = data.filter(lambda *batch: True) if "async" in mode else data
    # An endless input, of which the worker that takes over has the rest of the lost one's share.
    endless = {"x": data.repeat(), "steps_per_epoch": BATCHES} if mode in ("geo", "sync") else {"x": given}
    history = model.fit(**endless, epochs=3, verbose=0, callbacks=[Kill(victim)])
    found = {
        "mode": mode,
        "examples": history.history["examples"],
        "iterations": int(model.optimizer.iterations),
        "table": model.get_weights()[0][:, 0].tolist(),
    }
    if mode == "async":  # the others do it alike
        found["evaluated"] = model.evaluate(data, verbose=0, return_dict=True)["examples"]
        found["predicted"] = len(model.predict(ids[:50], verbose=0))
    print(json.dumps(found), flush=True)
    model.train_on_batch(ids[:SIZE], np.zeros((SIZE, 2, 4), "float32"))

class Hang(keras.callbacks.Callback):
    # A worker stops, and does not end.
    stopped_at = None

    def on_train_batch_end(self, batch, logs=None):
        if self.stopped_at is None:
            task = next(t for t in strategy.cluster.tasks if (t.order.job, t.order.index) == ("worker", 0))
            os.kill(task.pid, signal.SIGSTOP)
            self.stopped_at = time.monotonic()

def beat():
    while not over.wait(0.2):
        beats.append(time.monotonic())

beats, over, hang, strategy.closure_timeout_s = [], threading.Event(), Hang(), 5.0
threading.Thread(target=beat, daemon=True).start()
try:
    model.fit(data, verbose=0, callbacks=[hang])
except tfps.errors.ClusterTimeoutError as error:
    over.set()
    gaps = [after - before for before, after in zip(beats, beats[1:])]
    hung = {"mode": "hung", "raised": str(error), "after_s": time.monotonic() - hang.stopped_at, "still_s": max(gaps)}
    print(json.dumps(hung), flush=True)
strategy.close()
"""


def found(modes):
    """What each mode gave, in a cluster that loses a worker in each, and how a worker that hangs was seen."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"} | {"PYTHONPATH": str(ROOT)}
    done = programs.run(["-c", PROGRAM, *modes], env=environment, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    warnings = [line for line in done.stderr.splitlines() if "the other workers continue without worker" in line]
    assert len(warnings) == len(modes) and f"without worker {len(modes)}" in warnings[-1], done.stderr[-3000:]
    # All but the last come back before their `fit` is over, or within the next.
    assert done.stderr.count("It trains its input shard again") >= len(modes) - 1, done.stderr[-3000:]
    assert all("ended by SIGKILL. Its log: " in line and "takes over its input shard" in line for line in warnings)
    # TensorFlow would say it again for every function that is traced or dropped after a loss, in four lines each.
    # TensorFlow 2.18, for one, logs a line for each tensor of a task that is gone.
    if tf.__version__.startswith("2.21."):
        assert done.stderr.count("remote target") < 10, done.stderr[-3000:]
    return {result.pop("mode"): result for result in results}


def seen(rows=300, batches=120, size=8):
    ids = np.random.default_rng(0).integers(0, rows, (batches * size, 2))
    return np.bincount(ids.reshape(-1), minlength=rows)


# A cluster of six workers that die one after the other is started once for several modes.
@pytest.mark.parametrize(
    "modes",
    [["async", "geo", "sync"], pytest.param(["overlap", "async, overlap"], marks=pytest.mark.slow)],
    ids=", ".join,
)
def test_each_update_counts_once(modes):
    by_mode = found(modes)
    hung = by_mode.pop("hung")  # the last of all
    assert "waited 5 s for" in hung["raised"] and hung["after_s"] < 60
    assert hung["still_s"] < hung["after_s"] / 2, "the chief's Python stood still while it waited"
    assert list(by_mode) == modes
    for mode, result in by_mode.items():
        assert result["examples"] == [960, 960, 960], mode
        # A synchronous step takes six batches, whoever is gone.
        joined = 6 if mode == "sync" else 1
        assert result["iterations"] == 3 * 120 / joined, mode
        np.testing.assert_allclose(result["table"], 3 * seen() / joined, rtol=1e-6, err_msg=mode)
        if mode == "async":  # the others do it alike
            assert (result["evaluated"], result["predicted"]) == (960, 50)
