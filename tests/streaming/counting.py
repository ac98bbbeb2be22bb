"""A model whose rows count how often each record was trained, and streams of records for it."""

import os

import keras
import numpy as np
import tensorflow as tf

ROWS = 400
LONG_AGO = 1e9


def make_model(strategy=None, metrics=()):
    """The gradient of each record is -1 on its row, whatever the weights, so a row is the count of its record."""

    def make():
        table = keras.layers.Embedding(ROWS, 1, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((), dtype="int64"), table])
        model.compile(keras.optimizers.SGD(1.0), lambda y, rows: -keras.ops.sum(rows), metrics=list(metrics))
        return model

    if strategy is None:
        return make()
    with strategy.scope():
        return make()


def counts(model):
    return model.get_weights()[0][:, 0].astype(int).tolist()


def expected(ids):
    return np.bincount(ids, minlength=ROWS).tolist()


def parse(files, batch=8):
    """Batches of the numbers in text files."""
    lines = files.interleave(tf.data.TextLineDataset, cycle_length=1)
    return lines.map(lambda line: (tf.strings.to_number(line, tf.int64), 0.0)).batch(batch)


def write(path, ids, modified=LONG_AGO):
    """Writes a file of numbers, as a program that renames it when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    partial.write_text("".join(f"{number}\n" for number in ids))
    os.utime(partial, (modified, modified))
    partial.rename(path)
    return list(ids)


def write_many(folder, files, each, seed=0):
    """Writes files `000.csv`, ... of random numbers; returns all numbers."""
    draw = np.random.default_rng(seed)
    return [number for i in range(files) for number in write(folder / f"{i:03}.csv", draw.integers(0, ROWS, each))]
