"""A small model with two tables, a slot for each, dropout and batch normalization; and its whole state."""

import keras
import numpy as np

ROWS = 3000
rng = np.random.default_rng(0)
X = rng.integers(0, ROWS, (1200, 3))
Y = (X.sum(1, keepdims=True) % 2).astype("float32")


def build(optimizer="adam", rows=ROWS):
    keras.utils.set_random_seed(3)
    ids = keras.Input((3,), dtype="int64")
    wide = keras.layers.Flatten()(keras.layers.Embedding(rows, 8, name="wide")(ids))
    narrow = keras.layers.Flatten()(keras.layers.Embedding(rows, 1, name="narrow")(ids))
    hidden = keras.layers.Dropout(0.1)(keras.layers.BatchNormalization()(keras.layers.Concatenate()([wide, narrow])))
    model = keras.Model(ids, keras.layers.Dense(1, activation="sigmoid", name="top")(hidden))
    model.compile(optimizer, "binary_crossentropy", metrics=["auc"])
    return model


def values(model):
    return [variable.numpy() for variable in [*model.variables, *model.optimizer.variables]]


def assert_same(one, other, tolerance=0.0):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
