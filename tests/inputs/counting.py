"""A model in each mode that says how often it saw each example."""

import keras
import numpy as np
import tensorflow as tf

import tfps

ROWS = 48


class Seen(keras.metrics.Metric):
    """How often each example was seen; an example is a number, which is also its label."""

    def __init__(self, name="seen"):
        super().__init__(name=name)
        self.counts = self.add_variable((ROWS,), "zeros", name="counts")

    def update_state(self, y_true, y_pred, sample_weight=None):
        numbers = keras.ops.cast(keras.ops.reshape(y_true, (-1,)), "int32")
        self.counts.assign_add(keras.ops.sum(keras.ops.one_hot(numbers, ROWS), axis=0))

    def result(self):
        return keras.ops.sum(self.counts)


OPTIMIZERS = {
    "async": lambda: keras.optimizers.SGD(0.1),
    "geo": lambda: tfps.optimizers.Geo(keras.optimizers.SGD(0.1), push_every=3),
    "geo, overlap": lambda: tfps.optimizers.Geo(keras.optimizers.SGD(0.1), push_every=3, overlap=True),
    "sync": lambda: tfps.optimizers.Sync(keras.optimizers.SGD(0.1)),
    "sync, backup": lambda: tfps.optimizers.Sync(keras.optimizers.SGD(0.1), drop_slowest=1),
}


class Counter:
    """A model whose calls return how often they saw each example, a list of ints [ROWS]."""

    def __init__(self, strategy, mode):
        with strategy.scope():
            self.seen = Seen()
            ids = keras.Input((), dtype="int64")
            self.model = keras.Sequential([ids, keras.layers.Embedding(ROWS, 2), keras.layers.Dense(1)])
            self.model.compile(OPTIMIZERS[mode](), "mse", metrics=[self.seen])

    def _counts(self):
        return np.asarray(self.seen.counts).astype(int).tolist()

    def fit(self, dataset, **arguments):
        """The counts of each epoch."""
        epochs = []
        callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(self._counts()))
        self.model.fit(labelled(dataset), verbose=0, callbacks=[callback], **arguments)
        return epochs

    def evaluate(self, dataset, **arguments):
        self.model.evaluate(labelled(dataset), verbose=0, **arguments)
        return self._counts()


def labelled(dataset):
    """Batches of numbers as batches of (number, number)."""
    if not isinstance(dataset, tf.data.Dataset):
        return dataset
    return dataset.map(lambda number: (number, tf.cast(number, tf.float32)[:, tf.newaxis]))


def each(times, rows=ROWS):
    """The counts where each of the first examples was seen `times` times, and no other."""
    return [times] * rows + [0] * (ROWS - rows)
