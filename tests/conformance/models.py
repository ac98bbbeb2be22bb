"""The models of the conformance suite, their data and their state."""

from typing import Any

import keras
import numpy as np

import tfps
from tests.conformance.matrix import Kind, Mode, scope_of
from tfps.embedding.dynamic_table import DynamicTable

Array = np.ndarray[Any, Any]
State = dict[str, Array]
"""Every variable of a model and of its optimizer, by a number and its path."""

# As many rows as it takes for a table to be split over three servers.
ROWS, SIZE, BATCHES = 100, 8, 6

_RANDOM = np.random.default_rng(11)


def _batch() -> Array:
    # Each id once in a batch: Keras's Adagrad squares the gradients of a repeated id one by one, tfps their sum.
    # There are 55 ids, so batches have some in common and the order of updates counts.
    return _RANDOM.permutation(55)[: 2 * SIZE].reshape(SIZE, 2) * 7 % ROWS


def _labels(ids: Array) -> Array:
    return (ids[:, :1] % 7).astype("float32")


IDS = np.concatenate([_batch() for _ in range(BATCHES)])
LABELS = _labels(IDS)
# Of the step after a restore.
NEXT_IDS = _batch()
NEXT_LABELS = _labels(NEXT_IDS)


def build(strategy: tfps.ParameterServerStrategy | None, kind: Kind, mode: Mode) -> keras.Model:
    """Two tables of different widths and a dense layer, with Adagrad, whose slots are tables too."""
    keras.utils.set_random_seed(5)
    with scope_of(strategy):
        inputs = keras.Input((2,), dtype="int64")
        wide, narrow = kind.layer(ROWS, 4, name="wide"), kind.layer(ROWS, 1, name="narrow")
        rows = [keras.layers.Flatten()(wide(inputs)), narrow(inputs[:, 1])]
        model = keras.Model(inputs, keras.layers.Dense(1, name="top")(keras.layers.Concatenate()(rows)))
        model.compile(mode.wrap(keras.optimizers.Adagrad(0.1)), "mse", metrics=["mae"])
    return model


def fit(model: keras.Model, *callbacks: keras.callbacks.Callback) -> keras.Model:
    """Trains an epoch on the data, in order."""
    model.fit(IDS, LABELS, batch_size=SIZE, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model


def evaluate(model: keras.Model) -> dict[str, float]:
    """Loss and metrics of the data."""
    return model.evaluate(IDS, LABELS, batch_size=SIZE, verbose=0, return_dict=True)


def predict(model: keras.Model) -> Array:
    """Predictions of the data."""
    return model.predict(IDS, batch_size=SIZE, verbose=0)


def one_more_step(model: keras.Model) -> keras.Model:
    """Trains on one batch: in every mode one step on one worker, so with one result, however many there are."""
    model.train_on_batch(NEXT_IDS, NEXT_LABELS)
    return model


def state(model: keras.Model) -> State:
    """Every variable of a model and of its optimizer, with a number because two may have the same path."""
    variables = [*model.variables, *model.optimizer.variables]
    return {f"{number} {variable.path}": _value(variable) for number, variable in enumerate(variables)}


def rows(layer: keras.layers.Embedding) -> Array:
    """The rows of an embedding, [ROWS, dim]."""
    return _value(layer.embeddings)


def _value(variable: keras.Variable) -> Array:
    table = getattr(variable, "_value", None)
    # What a table that grows has not stored reads as it would begin.
    return table.sparse_read(np.arange(ROWS)).numpy() if isinstance(table, DynamicTable) else np.array(variable)


def set_state(model: keras.Model, values: State) -> None:
    """Sets every variable of a model with slots to the state of another."""
    for variable, value in zip([*model.variables, *model.optimizer.variables], values.values(), strict=True):
        if isinstance(variable._value, DynamicTable):
            variable._value.assign_rows(np.arange(ROWS), value)
        else:
            variable.assign(value)


def assert_equal(ours: State, theirs: State, tolerance: float = 0.0) -> None:
    """Checks that two models have the same variables with the same values, bit for bit without a tolerance."""
    # Keras numbers the optimizers of a process, so the names of two may differ.
    assert len(ours) == len(theirs)
    for (name, one), other in zip(ours.items(), theirs.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance / 100, err_msg=name)
