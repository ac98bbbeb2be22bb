"""The models of the conformance suite, their data and their state."""

from typing import Any

import keras
import numpy as np

import tfps
from tests.conformance.matrix import Kind, Mode, scope_of

ROWS, SIZE, BATCHES = 60, 8, 6

_RANDOM = np.random.default_rng(11)
# Few rows, so that batches have some in common and the order of updates counts; the last five never occur.
IDS = _RANDOM.integers(0, ROWS - 5, (BATCHES * SIZE, 2))
LABELS = (IDS[:, :1] % 7).astype("float32")
# Of the step after a restore.
NEXT_IDS, NEXT_LABELS = IDS[::BATCHES], LABELS[::BATCHES]

Array = np.ndarray[Any, Any]


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


def fit(model: keras.Model, epochs: int = 1, **arguments: Any) -> keras.Model:
    """Trains on the data, in order."""
    model.fit(IDS, LABELS, batch_size=SIZE, epochs=epochs, shuffle=False, verbose=0, **arguments)
    return model


def state(model: keras.Model) -> dict[str, Array]:
    """Every variable of a model and of its optimizer, with a number because two may have the same path."""
    variables = [*model.variables, *model.optimizer.variables]
    return {f"{number} {variable.path}": np.array(variable) for number, variable in enumerate(variables)}


def assert_equal(ours: dict[str, Array], theirs: dict[str, Array], tolerance: float = 0.0) -> None:
    """Checks that two models have the same variables with the same values, bit for bit without a tolerance."""
    # Keras numbers the optimizers of a process, so the names of two may differ.
    assert len(ours) == len(theirs)
    for (name, one), other in zip(ours.items(), theirs.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance / 100, err_msg=name)
