"""tf_keras (`TF_USE_LEGACY_KERAS=1`) under the strategy: what works with TensorFlow's own strategy works with ours."""

import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("tf_keras")

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import sys
import numpy as np
import tensorflow as tf
import tfps

kind, folder = sys.argv[1:]
ROWS, DIM, BATCH = 12, 2, 4
cluster = tfps.LocalCluster(num_ps=2, num_workers=2)
if kind == "ours":
    strategy = tfps.ParameterServerStrategy(cluster)
else:
    cluster.start()
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster.spec.resolver_spec(), rpc_layer="grpc")
    strategy = tf.distribute.ParameterServerStrategy(resolver)
keras = tf.keras
assert "tf_keras" in keras.Model.__module__, keras.Model.__module__


def negative_sum(y_true, y_pred):
    return -tf.reduce_sum(y_pred, -1)


def build():
    with strategy.scope():
        model = keras.Sequential([keras.layers.Embedding(ROWS, DIM, embeddings_initializer="zeros")])
        model.build((None,))
        model.compile(keras.optimizers.SGD(float(BATCH)), loss=negative_sum, metrics=["mse"])
    return model


def batches(context=None):
    return tf.data.Dataset.range(ROWS).map(lambda i: (i, tf.zeros([DIM]))).batch(BATCH).repeat()


def table(model):
    return np.concatenate([np.asarray(w) for w in model.get_weights()])
"""
# Rows are not counted: the SGD of tf_keras keeps a momentum slot, which two workers at once overwrite for each other.
CHECKS = """
model = build()
history = model.fit(keras.utils.experimental.DatasetCreator(batches), steps_per_epoch=9, epochs=2, verbose=0)
assert len(history.history["loss"]) == 2
assert int(model.optimizer.iterations) == 18, model.optimizer.iterations
assert table(model).min() > 0, table(model)

model = build()
model.fit(batches(), steps_per_epoch=9, epochs=2, verbose=2)
assert int(model.optimizer.iterations) == 18, model.optimizer.iterations
assert table(model).min() > 0, table(model)

numbers = np.arange(ROWS * DIM, dtype="float32").reshape(ROWS, DIM)
model.set_weights([numbers])
ones = tf.data.Dataset.from_tensors((tf.fill([BATCH], 3), tf.zeros([BATCH, DIM]))).repeat()
results = model.evaluate(ones, steps=5, verbose=0, return_dict=True)
np.testing.assert_allclose([results["loss"], results["mse"]], [-(6 + 7), (36 + 49) / 2])

order = np.random.default_rng(0).permutation(ROWS)
predicted = model.predict(tf.data.Dataset.from_tensor_slices(order).batch(5), verbose=0)
np.testing.assert_array_equal(predicted, numbers[order])

for name in ("weights.h5", "checkpoint"):
    model.save_weights(f"{folder}/{name}")
    loaded = build()
    loaded.load_weights(f"{folder}/{name}")
    np.testing.assert_array_equal(table(loaded), numbers)
    loaded.fit(batches(), steps_per_epoch=3, verbose=0)
    assert int(loaded.optimizer.iterations) == (3 if name.endswith("h5") else 21)
print("all done")
"""


# TensorFlow's own strategy shows that the program is right, whatever tfps does.
@pytest.mark.parametrize("kind", ["ours", pytest.param("stock", marks=pytest.mark.slow)])
def test_legacy_keras_trains(kind, tmp_path):
    kept = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
    environment = kept | {"TF_USE_LEGACY_KERAS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM + CHECKS, kind, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "all done" in done.stdout, done.stderr[-3000:]
