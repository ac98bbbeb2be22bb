"""A small model with a table and a dense tower, and its data: steps 0 to 7, of 8 examples each."""

import contextlib

import keras
import numpy as np

ROWS, BATCH, STEPS = 60, 8, 8
LATE_ID, LATE_STEP = 55, 3
"""An id that the data has in one step alone."""


def inputs(steps=STEPS):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 40, (steps * BATCH, 3))
    ids[LATE_STEP * BATCH + 2, 1] = LATE_ID
    numbers = rng.normal(size=(steps * BATCH, 4)).astype("float32")
    return {"ids": ids, "numbers": numbers}, rng.normal(size=(steps * BATCH, 1)).astype("float32")


def build(optimizer="sgd"):
    ids, numbers = keras.Input((3,), dtype="int64", name="ids"), keras.Input((4,), name="numbers")
    rows = keras.layers.Flatten(name="flat")(keras.layers.Embedding(ROWS, 4, name="items")(ids))
    tower = keras.Sequential(
        [keras.layers.Dense(6, "relu", name="first"), keras.layers.Dense(3, name="second")], name="deep"
    )
    joined = keras.layers.Concatenate(name="joined")([rows, tower(numbers)])
    model = keras.Model({"ids": ids, "numbers": numbers}, keras.layers.Dense(1, name="top")(joined), name="ctr")
    model.compile(optimizer, "mse")
    return model


def trained(strategy, callbacks, optimizer="sgd", data=None, change=None, **options):
    """A model after one epoch; `change` gets it before."""
    keras.utils.set_random_seed(1)
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        model = build(optimizer)
    if change is not None:
        change(model)
    x, y = inputs() if data is None else data
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=callbacks, **options)
    return model
