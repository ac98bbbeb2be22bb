"""Trains on one device and on two, or as one of two hosts with two each; prints the logs beside those of scikit-learn.

    python -m tests.metrics.replicas_program [INDEX PORT PORT]

It is a program because logical devices have to be set before TensorFlow starts.
"""

import json
import os
import sys

import keras
import tensorflow as tf

N = 150


def run(make_strategy):
    from tests.metrics import models

    features, labels, weights = models.clicks()
    # An odd number of examples: the last batch has one, so that a replica has none.
    rows = slice(0, N + 1)
    features = {name: one[rows] for name, one in features.items()}
    labels, weights = labels[rows], weights[rows]
    strategy = make_strategy()
    with strategy.scope():
        model = models.make(models.all_metrics(), keras.optimizers.SGD(0.0))
    data = models.dataset((features, labels, weights), batch=50)
    logs = model.fit(data, epochs=2, verbose=0, validation_data=data).history
    scores = model.predict(models.dataset(features), verbose=0)
    right = models.expected(labels, scores, weights, features["user"])
    return {name: [float(value), *logs[name], *logs[f"val_{name}"]] for name, value in right.items()}


if __name__ == "__main__":
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

    import tfps

    if sys.argv[1:]:
        cluster = {"worker": [f"127.0.0.1:{port}" for port in sys.argv[2:]]}
        os.environ["TF_CONFIG"] = json.dumps(
            {"cluster": cluster, "task": {"type": "worker", "index": int(sys.argv[1])}}
        )
        print(json.dumps({"hosts": run(tfps.MultiWorkerMirroredStrategy)}))
        sys.exit()
    kinds = {
        "mirrored": lambda: tfps.MirroredStrategy(["CPU:0", "CPU:1"]),
        "one": lambda: tfps.OneDeviceStrategy("CPU:0"),
    }
    print(json.dumps({name: run(kinds[name]) for name in kinds}))
