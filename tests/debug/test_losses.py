"""A worker dies while it dumps: each step is in the index once, with the batch that it was trained on."""

import json
import os
import pathlib

import pytest

from tests import programs

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import json, logging, os, signal, sys, tempfile
import keras, numpy as np, tensorflow as tf, tfps
from tfps.debug.reading import DumpReader
from tfps.training.asynchronous import pacing
from tfps.training.pacing import Pace

logging.basicConfig(level=logging.INFO)
# All workers train from the first step on.
pacing.young_pace = lambda trained, workers, most, for_each: Pace(workers, most)
BATCHES, SIZE = 240, 4
strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=1, num_workers=2), dense_tables_bytes=0)

class Kill(keras.callbacks.Callback):
    left = 60

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            task = next(t for t in strategy.cluster.tasks if (t.order.job, t.order.index) == ("worker", 1))
            os.kill(task.pid, signal.SIGKILL)

ids = np.random.default_rng(0).integers(0, 500, (BATCHES * SIZE, 2))
with strategy.scope():
    rows = keras.layers.Embedding(500, 2, name="items")
    model = keras.Sequential([keras.Input((2,), dtype="int64"), rows, keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
data = tf.data.Dataset.from_tensor_slices((ids, np.zeros((BATCHES * SIZE, 1), "float32"))).batch(SIZE)
url = sys.argv[1]
model.fit(data, verbose=0, callbacks=[Kill(), tfps.callbacks.Dump(url, what=["rows"])])
dump = DumpReader(url)
wrong = 0
for step, worker in dump.steps:
    value = dump.values(step, worker)[0]
    wrong += value.ids.tolist() != np.unique(ids[step * SIZE : (step + 1) * SIZE]).tolist()
numbers = [step for step, _ in dump.steps]
found = {"steps": len(numbers), "once": len(set(numbers)), "wrong": wrong, "workers": dump.workers}
print(json.dumps(found), flush=True)
strategy.close()
"""


@pytest.mark.slow
def test_steps_that_are_trained_again_are_there_once(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | {"PYTHONPATH": str(ROOT)}
    done = programs.run(["-c", PROGRAM, str(tmp_path / "dump")], env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (result,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert "the other workers continue without worker 1" in done.stderr
    assert result["steps"] == result["once"] and result["wrong"] == 0 and result["workers"] == [0, 1]
    # Steps that the dead worker had trained and not yet written are missing.
    assert 230 <= result["steps"] <= 240
