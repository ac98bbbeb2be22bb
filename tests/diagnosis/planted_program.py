"""One program for every task of a cluster. The chief profiles a plain run, a delay on the wire and a slow server.

The others reach the server by way of a proxy in the process of the test. It delays what passes while there is a file.
"""

import contextlib
import json
import os
import pathlib
import signal
import sys
import threading
import time

import keras
import numpy as np
import tensorflow as tf

import tfps

DELAY = "delay.now"
"""The name of the file in the folder while which the proxy delays."""
_RUNS_S, _STANDS_S = 0.004, 0.02
"""A slow server runs and stands still in turns."""
_STEPS = 400


@contextlib.contextmanager
def slow(pid):
    """Lets a process run for a part of the time alone."""
    ended = threading.Event()

    def stand_still():
        while not ended.wait(_RUNS_S):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(_STANDS_S)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=stand_still)
    thread.start()
    yield
    ended.set()
    thread.join()


def main(folder):
    delay = pathlib.Path(folder) / DELAY
    # Servers and workers stay in here.
    strategy = tfps.ParameterServerStrategy(dense_tables_bytes=0)
    with strategy.scope():
        model = keras.Sequential([keras.layers.Embedding(50_000, 64), keras.layers.Flatten(), keras.layers.Dense(1)])
        model.compile(optimizer="adagrad", loss="mse")
    ids = np.random.default_rng(0).integers(0, 50_000, (64, 512, 8))
    data = tf.data.Dataset.from_tensor_slices((ids, np.ones((64, 512, 1), np.float32))).repeat()
    model.fit(data, steps_per_epoch=100, verbose=0)
    found = {}

    def profile(name):
        callback = tfps.callbacks.Profile(os.path.join(folder, name), (_STEPS // 2, _STEPS * 3 // 4), most_s=2.0)
        model.fit(data, steps_per_epoch=_STEPS, verbose=0, callbacks=[callback])
        (worker,) = callback.timeline.of_job("worker")
        on_servers = sum(worker.waited_on_servers_ms.values())
        waited = sum(worker.waited_for_ms.values())
        found[name] = {
            "ms": dict(worker.ms),
            "servers": on_servers,
            "wire": waited - on_servers,
            "advice": callback.advice,
        }

    profile("plain")
    delay.touch()
    profile("delay")
    delay.unlink()
    with slow(int(os.environ["SERVER_PID"])):
        profile("slow")
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
