"""Exports and followers whose processes are killed at any moment: whole versions, in order, and no update lost."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np

from tests import programs
from tfps.serving import Follower

ROOT = pathlib.Path(__file__).parents[2]
TRAIN = """
import pathlib, sys, time
import keras, numpy as np, tensorflow as tf, tfps
from tfps.callbacks import Checkpoint, Export

folder, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2])
ROWS, SIZE = 2000, 50
rng = np.random.default_rng(0)
ids = rng.integers(0, ROWS, (ROWS * 4, 1))
strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=2, num_workers=2), dense_tables_bytes=0)

class Pause(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.02)

with strategy.scope():
    # Each training of a row adds 1 to all of its elements.
    table = keras.layers.Embedding(ROWS, 8, embeddings_initializer="zeros", name="counts")
    model = keras.Sequential([keras.Input((1,), dtype="int64"), table])
    model.compile(keras.optimizers.SGD(1.0), lambda y, rows: -keras.ops.sum(rows))
data = tf.data.Dataset.from_tensor_slices((ids, np.zeros((len(ids), 1, 1), "float32"))).batch(SIZE).repeat()
export = Export(folder / "out", every_s=0.15, full_every=4)
model.fit(data, steps_per_epoch=steps, verbose=0, callbacks=[Pause(), export])
np.save(folder / "rows.npy", table.get_weights()[0])
"""
# It says what it has after each version, so that the test sees it after a kill, too.
FOLLOW = """
import sys, time
import numpy as np
from tfps.serving import Follower
follower, before = Follower(sys.argv[1], on_gap="raise"), None
while True:
    if follower.update():
        rows, found = follower.lookup("counts", np.arange(2000))
        assert found.all() and (rows == rows[:, :1]).all(), "a row is torn"
        # Between two versions of one chain no count goes down.
        chain = follower._snapshot.version.chain_id
        assert before is None or before[0] != chain or (rows >= before[1]).all(), "an update was lost"
        before = chain, rows
        print(follower.version, int(rows[:, 0].sum()), flush=True)
    time.sleep(0.01)
"""
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | {"PYTHONPATH": str(ROOT)}


def start_follower(folder, log):
    return subprocess.Popen(
        [sys.executable, "-c", FOLLOW, str(folder / "out")], env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT
    )


def lines(path):
    return path.read_text().splitlines()


def wait_until(condition, what, limit_s=240.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.02)


def test_a_trainer_and_its_follower_are_killed_and_started_again(tmp_path):
    rng = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))
    log, errors = tmp_path / "follower.log", tmp_path / "trainer.log"
    with open(log, "w") as out, open(errors, "w") as err:
        follower = start_follower(tmp_path, out)
        trainer = programs.start(["-c", TRAIN, str(tmp_path), "100000"], env=ENVIRONMENT, stderr=err)
        try:
            wait_until(lambda: len(lines(log)) >= 6 or trainer.poll() is not None, f"versions; {errors.read_text()}")
            time.sleep(rng.random() * 0.3)
            os.kill(trainer.pid, signal.SIGKILL)
            follower.kill()
            follower.wait(60)
            assert "Error" not in log.read_text(), log.read_text()
            before = int(lines(log)[-1].split()[0])
            # Both begin again: the follower by what there is, the trainer with a full version.
            follower = start_follower(tmp_path, out)
            wait_until(lambda: int(lines(log)[-1].split()[0]) >= before, "the follower that was started again")
            trainer.kill()
            done = programs.run(["-c", TRAIN, str(tmp_path), "150"], env=ENVIRONMENT, timeout=600, check=True)
            newest = Follower(tmp_path / "out", on_gap="raise")
            numbers = newest.update()
            assert numbers[0] > before or numbers == sorted(numbers)
            wait_until(lambda: int(lines(log)[-1].split()[0]) == newest.version, f"the last version; {done.stderr}")
        finally:
            for process in (trainer, follower):
                process.kill()
            follower.wait(60)
    assert "Error" not in log.read_text(), log.read_text()
    versions = [int(line.split()[0]) for line in lines(log)]
    assert all(later >= earlier for earlier, later in zip(versions, versions[1:], strict=False))
    rows, counts = np.load(tmp_path / "rows.npy"), newest.lookup("counts", np.arange(2000))[0]
    np.testing.assert_array_equal(counts, rows)
    assert rows[:, 0].sum() == 150 * 50 == int(lines(log)[-1].split()[1])


LOSS = TRAIN.replace(
    "class Pause",
    """
import json, os, signal, threading
seen = []

def follow():
    follower = tfps.serving.Follower(folder / "out", on_gap="raise")
    while True:
        if follower.update():
            seen.append((follower.version, bool(np.isfinite(follower.lookup("counts", np.arange(ROWS))[0]).all())))
        time.sleep(0.01)

threading.Thread(target=follow, daemon=True).start()

class Kill(keras.callbacks.Callback):
    left = 60
    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            os.kill([task for task in strategy.cluster.tasks if task.order.job == "ps"][1].pid, signal.SIGKILL)

class Pause""",
).replace(
    "callbacks=[Pause(), export]", 'callbacks=[Pause(), Kill(), Checkpoint(folder / "run", every_steps=16), export]'
)
LOSS += """
deadline = time.monotonic() + 60
newest = tfps.serving.Follower(folder / "out")
newest.update()
while (not seen or seen[-1][0] < newest.version) and time.monotonic() < deadline:
    time.sleep(0.01)
(folder / "seen.json").write_text(json.dumps(seen))
"""


def test_a_server_that_is_killed_leaves_no_hole(tmp_path):
    done = programs.run(["-c", LOSS, str(tmp_path), "200"], env=ENVIRONMENT, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "replaced after" in done.stderr, "the server was lost and started again"
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert len(seen) > 5 and all(is_finite for _, is_finite in seen)
    follower = Follower(tmp_path / "out")
    follower.update()
    assert seen[-1][0] == follower.version
    np.testing.assert_array_equal(follower.lookup("counts", np.arange(2000))[0], np.load(tmp_path / "rows.npy"))
