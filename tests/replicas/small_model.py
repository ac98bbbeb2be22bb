"""The model and the data of the tests of strategies with replicas: a table, a dense part, ids that repeat."""

import keras
import numpy as np

EXAMPLES, ROWS, BATCH = 165, 50, 32
"""165 = 5 * 32 + 5: with two replicas the last batch is uneven; with 33 or more batches of five, one is empty."""


def clicks(examples=EXAMPLES):
    draw = np.random.default_rng(0)
    ids = draw.integers(0, ROWS - 10, (examples, 4))
    dense = draw.random((examples, 3)).astype("float32")
    return [ids, dense], (ids.sum(1) % 2).astype("float32")


def build(optimizer, loss="binary_crossentropy", dropout=0.0, normalization=False, **compiled):
    keras.utils.set_random_seed(1)
    ids, dense = keras.Input((4,), dtype="int64"), keras.Input((3,))
    rows = keras.layers.Flatten()(keras.layers.Embedding(ROWS, 8, name="table")(ids))
    hidden = keras.layers.Concatenate()([rows, dense])
    if normalization:
        hidden = keras.layers.BatchNormalization(name="normalization")(hidden)
    hidden = keras.layers.Dense(16, activation="relu")(hidden)
    if dropout:
        hidden = keras.layers.Dropout(dropout)(hidden)
    model = keras.Model([ids, dense], keras.layers.Dense(1, activation="sigmoid", dtype="float32")(hidden))
    model.compile(optimizer, loss, **{"metrics": ["auc"], **compiled})
    return model


def state_of(model):
    """All weights and optimizer variables."""
    return [*model.get_weights(), *(variable.numpy() for variable in model.optimizer.variables)]


def difference(first, second):
    """The largest difference between two lists of arrays; a relative one for values beyond one."""
    return max(_difference(np.float64(a), np.float64(b)) for a, b in zip(first, second, strict=True))


def _difference(first, second):
    return float((np.abs(first - second) / np.maximum(1.0, np.abs(first))).max())


def log_difference(first, second):
    """The largest difference between two histories; a relative one for logs beyond one."""
    # Keras 3.6 leaves the values of a step of one's own as tensors.
    pairs = [(float(a), float(b)) for name in first for a, b in zip(first[name], second[name], strict=True)]
    return max(abs(a - b) / max(1.0, abs(a)) for a, b in pairs)


def has_reduction(name):
    """Whether this version of Keras has a reduction of losses."""
    try:
        keras.losses.MeanSquaredError(reduction=name)
    except ValueError:
        return False
    return True
