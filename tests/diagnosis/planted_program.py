"""One program for every task of a cluster. The chief profiles a plain run, a delay on the wire and a slow server.

The others reach the server by way of a proxy in the process of the test, which plants both.
"""

import json
import os
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import tfps

DELAY, SLOW = "delay.now", "slow.now"
"""The names of files in the folder: while one is there, the test delays messages, or slows the server down."""
_STEPS = 200


def main(folder):
    # Servers and workers stay in here.
    strategy = tfps.ParameterServerStrategy(dense_tables_bytes=0)
    with strategy.scope():
        model = keras.Sequential([keras.layers.Embedding(50_000, 128), keras.layers.Flatten(), keras.layers.Dense(1)])
        model.compile(optimizer="adagrad", loss="mse")
    ids = np.random.default_rng(0).integers(0, 50_000, (64, 256, 16))
    data = tf.data.Dataset.from_tensor_slices((ids, np.ones((64, 256, 1), np.float32))).repeat()
    model.fit(data, steps_per_epoch=100, verbose=0)
    found = {}

    def profile(name):
        callback = tfps.callbacks.Profile(os.path.join(folder, name), (_STEPS // 2, _STEPS * 3 // 4), most_s=2.0)
        model.fit(data, steps_per_epoch=_STEPS, verbose=0, callbacks=[callback])
        (worker,), (server,) = callback.timeline.of_job("worker"), callback.timeline.of_job("ps")
        on_servers = sum(worker.waited_on_servers_ms.values())
        waited = sum(worker.waited_for_ms.values())
        found[name] = {
            "ms": dict(worker.ms),
            "server_ms": dict(server.ms),
            "servers": on_servers,
            "wire": waited - on_servers,
            "advice": callback.advice,
        }

    profile("plain")
    for name, file in (("delay", DELAY), ("slow", SLOW)):
        (pathlib.Path(folder) / file).touch()
        profile(name)
        (pathlib.Path(folder) / file).unlink()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
