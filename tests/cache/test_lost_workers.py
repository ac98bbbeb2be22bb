"""A worker that keeps rows is killed: each update counts once, and the worker that replaces it keeps its own rows."""

import json
import os
import pathlib

import numpy as np
import pytest

from tests import programs

ROOT = pathlib.Path(__file__).parents[2]
ROWS, BATCHES, SIZE, EPOCHS = 300, 120, 8, 4
PROGRAM = f"""
import json, os, signal, keras, numpy as np, tensorflow as tf, tfps
from tfps.training.asynchronous import pacing
from tfps.training.pacing import Pace

ROWS, BATCHES, SIZE, EPOCHS = {ROWS}, {BATCHES}, {SIZE}, {EPOCHS}
# Both workers train and use what they keep, although the model is young.
pacing.young_pace = lambda trained, workers, most, for_each: Pace(workers, most)
pacing.YoungPacing.row_uses = lambda pacing, done: 4

class Kill(keras.callbacks.Callback):
    # In the middle of the second epoch.
    seen = 0

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        if self.seen == BATCHES + BATCHES // 2:
            task = next(t for t in strategy.cluster.tasks if (t.order.job, t.order.index) == ("worker", 1))
            os.kill(task.pid, signal.SIGKILL)

    def on_epoch_end(self, epoch, logs=None):
        counts = strategy.record.counts().workers
        print(json.dumps([counts[1].cached.asked, counts[1].cached.found]), flush=True)

strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=2, num_workers=2), dense_tables_bytes=0,
                                        cache_rows=200, max_staleness=30)
ids = np.random.default_rng(0).integers(0, ROWS, (BATCHES * SIZE, 2))
data = tf.data.Dataset.from_tensor_slices((ids, np.zeros((len(ids), 2, 4), "float32"))).batch(SIZE)
with strategy.scope():
    table = keras.layers.Embedding(ROWS, 4, embeddings_initializer="zeros")
    model = keras.Sequential([keras.Input((2,), dtype="int64"), table])
    # The gradient of each element is -1, whatever the weights are.
    model.compile(keras.optimizers.SGD(1.0), lambda y_true, y_pred: -keras.ops.sum(y_pred))
model.fit(data, epochs=EPOCHS, verbose=0, callbacks=[Kill()])
print(json.dumps(model.get_weights()[0][:, 0].tolist()), flush=True)
strategy.close()
"""


@pytest.mark.slow
def test_a_killed_worker_loses_and_doubles_no_update():
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"} | {"PYTHONPATH": str(ROOT)}
    done = programs.run(["-c", PROGRAM], env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    *epochs, table = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    ids = np.random.default_rng(0).integers(0, ROWS, (BATCHES * SIZE, 2))
    np.testing.assert_array_equal(table, EPOCHS * np.bincount(ids.reshape(-1), minlength=ROWS))
    assert done.stderr.count("continue without worker 1") == 1, done.stderr[-3000:]
    # It is back, and has kept rows since.
    assert len(epochs) == EPOCHS and 0 < epochs[0][1] < epochs[1][1] < epochs[3][1]
