"""Tasks of TensorFlow Recommenders in a Keras 3 model: losses of one worker and of one process, for a test.

Needs TF_USE_LEGACY_KERAS=1, because the package refuses to be imported with Keras 3 as tf.keras.
"""

import contextlib

import keras
import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

import tfps

USERS, ITEMS, EXAMPLES = 30, 50, 256


class Towers(keras.Model):
    """Users and items; a task of TensorFlow Recommenders makes a loss of their vectors."""

    def __init__(self, task):
        super().__init__()
        self.users, self.items = keras.layers.Embedding(USERS, 8), keras.layers.Embedding(ITEMS, 8)
        # The task is written for AutoGraph, which Keras 3 does not apply to losses.
        self.task = tf.function(task)

    def call(self, features):
        return self.users(features["user"]), self.items(features["item"])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return self.task(*y_pred, candidate_ids=x["item"], candidate_sampling_probability=x["frequency"])


def train(scope):
    """Returns the losses of two epochs."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, USERS, EXAMPLES), rng.integers(0, ITEMS, EXAMPLES)
    frequency = (np.bincount(item, minlength=ITEMS) / EXAMPLES).astype("float32")[item]
    data = tf.data.Dataset.from_tensor_slices({"user": user, "item": item, "frequency": frequency}).batch(32)
    keras.utils.set_random_seed(1)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, reduction="sum")
    with scope():
        task = tfrs.tasks.Retrieval(loss, temperature=0.5, num_hard_negatives=8, remove_accidental_hits=True)
        model = Towers(task)
        model.compile(keras.optimizers.SGD(0.05))
    return model.fit(data, epochs=2, verbose=0).history["loss"]


if __name__ == "__main__":
    alone = train(contextlib.nullcontext)
    with tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=1, num_workers=1)) as strategy:
        found = train(strategy.scope)
    np.testing.assert_allclose(found, alone, rtol=1e-4)
    assert alone[1] < alone[0]
    print("losses", *alone)
