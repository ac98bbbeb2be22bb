"""Trains while processes of its cluster are killed or stopped at seeded random moments, and counts the updates.

The gradient of the model does not depend on its weights, so each row ends as the number of its occurrences, whatever
the order: an update that is lost or counts twice shows.

Usage: python program.py MODE SEED FAULTS

FAULTS: comma-separated, one for each epoch: "kill" (one worker), "kill-all" (all workers), "stop" (a worker or a
server, for three seconds), "hang" (a worker, for good), "server" (kills a server; its rows are restored), "broken" (the
same after a bit of the latest checkpoint has flipped), "saving" (kills a server while a checkpoint is written).
"""

import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import threading
import time

import keras
import numpy as np
import tensorflow as tf

import tfps
from tfps.callbacks import Checkpoint
from tfps.training.asynchronous import pacing
from tfps.training.pacing import Pace

ROWS, SIZE, BATCHES, WORKERS, SERVERS, EVERY = 200, 8, 150, 3, 2, 37
MODES = {
    "async": lambda: keras.optimizers.SGD(1.0),
    "geo": lambda: tfps.optimizers.Geo(keras.optimizers.SGD(1.0), push_every=5, merge="sum"),
    "overlap": lambda: tfps.optimizers.Geo(keras.optimizers.SGD(1.0), push_every=5, merge="sum", overlap=True),
    "sync": lambda: tfps.optimizers.Sync(keras.optimizers.SGD(float(SIZE))),
}


class Gradient(keras.losses.Loss):
    """Has the gradient -1 for every element, or that divided by the examples."""

    def __init__(self, mean):
        super().__init__(reduction=None)
        self.mean = mean

    def call(self, y_true, y_pred):
        total = -keras.ops.sum(y_pred)
        return total / SIZE if self.mean else total


class Faults(keras.callbacks.Callback):
    """Makes one fault at a random batch of each epoch."""

    def __init__(self, cluster, kinds, seed, run):
        super().__init__()
        self.cluster, self.kinds, self.random, self.run = cluster, dict(enumerate(kinds)), random.Random(seed), run
        self.at, self.kind = -1, ""

    def on_epoch_begin(self, epoch, logs=None):
        # Not made again in an epoch that is repeated.
        self.kind = self.kinds.pop(epoch, "")
        # Two checkpoints are there by then.
        self.at = self.random.randrange(2 * EVERY + 9 if epoch == 0 else 5, BATCHES - 5)

    def on_train_batch_end(self, batch, logs=None):
        if self.kind and batch >= self.at:
            kind, self.kind = self.kind, ""
            time.sleep(self.random.uniform(0, 0.05))  # anywhere within the closures under way
            self.make(kind)

    def make(self, kind):
        workers = [task for task in self.cluster.tasks if task.order.job == "worker"]
        servers = [task for task in self.cluster.tasks if task.order.job == "ps"]
        chosen = {
            "kill": lambda: [self.random.choice(workers)],
            "kill-all": lambda: workers,
            "stop": lambda: [self.random.choice(workers + servers)],
            "hang": lambda: [self.random.choice(workers)],
            "server": lambda: [self.random.choice(servers)],
            "broken": lambda: [self.random.choice(servers)],
            "saving": lambda: [],
        }[kind]()
        if kind == "saving":
            # Once the next checkpoint has begun.
            threading.Thread(target=self.kill_while_saving, args=(self.random.choice(servers),), daemon=True).start()
        if kind == "broken":
            self.flip_a_bit()
        for task in chosen:
            print(kind, task.name, file=sys.stderr, flush=True)
            os.kill(task.pid, signal.SIGSTOP if kind in ("stop", "hang") else signal.SIGKILL)
            if kind == "stop":
                threading.Timer(3.0, os.kill, (task.pid, signal.SIGCONT)).start()

    def flip_a_bit(self):
        latest = self.run / (self.run / "latest").read_text().strip()
        path = self.random.choice(sorted(file for file in latest.rglob("*") if file.is_file()))
        content = bytearray(path.read_bytes())
        content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
        path.write_bytes(content)
        print("a bit of", path, file=sys.stderr, flush=True)

    def kill_while_saving(self, task):
        deadline = time.monotonic() + 60
        while not list(self.run.glob("*.partial")) and time.monotonic() < deadline:
            time.sleep(0.0005)
        print("saving", task.name, file=sys.stderr, flush=True)
        os.kill(task.pid, signal.SIGKILL)


def main(mode, seed, *kinds):
    pacing.young_pace = lambda trained, workers, most, for_each: Pace(workers, most)
    cluster = tfps.LocalCluster(num_ps=SERVERS, num_workers=WORKERS)
    strategy = tfps.ParameterServerStrategy(cluster, dense_tables_bytes=0)
    ids = np.random.default_rng(seed).integers(0, ROWS, (BATCHES * SIZE, 2))
    data = tf.data.Dataset.from_tensor_slices((ids, np.zeros((len(ids), 2, 4), "float32"))).batch(SIZE)
    if seed % 2:
        # Some inputs are read by the chief.
        data = data.map(lambda x, y: (tf.ensure_shape(tf.py_function(lambda a: a, [x], tf.int64), [None, 2]), y))
    with strategy.scope():
        table = keras.layers.Embedding(ROWS, 4, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((2,), dtype="int64"), table])
        model.compile(MODES[mode](), Gradient(mode == "sync"))
    model.train_on_batch(ids[:SIZE], np.zeros((SIZE, 2, 4), "float32"))  # makes all variables
    model.set_weights([np.zeros((ROWS, 4))])
    first, counted = int(model.optimizer.iterations), strategy.record.counts().kept_steps
    began = time.monotonic()
    run = pathlib.Path(tempfile.mkdtemp())
    checkpoint = Checkpoint(run, every_steps=EVERY, background=seed % 3 == 1, full_every=1 + seed % 4)
    faults = Faults(cluster, kinds, seed, run)
    model.fit(data, epochs=len(kinds), verbose=0, callbacks=[checkpoint, faults])
    seconds = time.monotonic() - began
    pids = [task.pid for task in cluster.tasks]
    counts = np.bincount(ids.reshape(-1), minlength=ROWS) * len(kinds) / (WORKERS if mode == "sync" else 1)
    found = {
        "wrong rows": int((~np.isclose(model.get_weights()[0][:, 0], counts)).sum()),
        "steps": int(model.optimizer.iterations) - first,
        "expected steps": BATCHES * len(kinds) // (WORKERS if mode == "sync" else 1),
        # As those who watch the job count them, without what a checkpoint took back.
        "counted steps": strategy.record.counts().kept_steps - counted,
        "batches": BATCHES * len(kinds),
        "epoch step": strategy.record.counts().epoch_step,
        "repeated": strategy.record.counts().repeated_steps,
        "seconds": seconds,
    }
    strategy.close()
    found["threads"] = [t.name for t in threading.enumerate() if t.name.startswith(("tfps-worker", "tfps-watch"))]
    found["processes"] = [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3].split(","))
