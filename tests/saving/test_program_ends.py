"""The program itself ends, by a signal or a fault, and is started again: the next one goes on from the checkpoint."""

import json
import os
import pathlib
import sys

import pytest

from tests import programs
from tfps import jobs

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import json, os, pathlib, signal, sys
import keras, numpy as np, tensorflow as tf, tfps
from tfps.callbacks import Checkpoint

folder, number, every = pathlib.Path(sys.argv[1]), int(getattr(signal, sys.argv[2])), json.loads(sys.argv[3])
ROWS, SIZE = 2400, 40
ids = np.arange(ROWS)[:, np.newaxis]
data = tf.data.Dataset.from_tensor_slices((ids, np.zeros((ROWS, 1, 1), "float32"))).shuffle(99).batch(SIZE)
strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=1, num_workers=2), dense_tables_bytes=0)
first = not (folder / "run").exists()

class Signal(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if first and self.params["epochs"] == 2 and batch == 44:
            os.kill(os.getpid(), number)

with strategy.scope():
    table = keras.layers.Embedding(ROWS, 1, embeddings_initializer="zeros")
    model = keras.Sequential([keras.Input((1,), dtype="int64"), table])
    model.compile(keras.optimizers.SGD(1.0), lambda y, rows: -keras.ops.sum(rows))
model.fit(data, epochs=2, verbose=0, callbacks=[Signal(), Checkpoint(folder / "run", **every)])
counts = np.unique(model.get_weights()[0]).tolist()
(folder / "done.json").write_text(json.dumps({"counts": counts, "steps": int(model.optimizer.iterations)}))
"""


def run(*arguments, command=()):
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | {"PYTHONPATH": str(ROOT)}
    return programs.run([*(command or ["-c", PROGRAM]), *map(str, arguments)], env=environment, timeout=600)


@pytest.mark.parametrize(
    ("name", "status"), [("SIGTERM", jobs.PREEMPTED), pytest.param("SIGINT", -2, marks=pytest.mark.slow)]
)
def test_a_signal_ends_after_the_step_and_the_next_program_goes_on(tmp_path, name, status):
    # Saved by the signal alone: the epoch of 60 batches is not over.
    ended = run(tmp_path, name, json.dumps({"every_steps": 1000}))
    assert ended.returncode in (status, 1), ended.stderr[-3000:]
    assert f"{name}: training ends after this step, and is saved" in ended.stderr
    saved = (tmp_path / "run" / "latest").read_text()
    assert 45 <= int(saved.partition("-")[2]) < 60
    assert run(tmp_path, name, json.dumps({"every_steps": 1000})).returncode == 0
    assert json.loads((tmp_path / "done.json").read_text()) == {"counts": [2.0], "steps": 120}


@pytest.mark.slow
def test_a_killed_program_is_started_again_by_the_launcher_and_goes_on(tmp_path):
    (tmp_path / "train.py").write_text(PROGRAM.replace("tfps.LocalCluster(num_ps=1, num_workers=2)", "None"))
    launch = [sys.executable, "-m", "tfps.cli.launch", "--ps=1", "--workers=2", str(tmp_path / "train.py")]
    done = run(tmp_path, "SIGKILL", json.dumps({"every_steps": 16}), command=launch[1:])
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "done.json").read_text()) == {"counts": [2.0], "steps": 120}
