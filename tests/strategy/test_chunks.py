"""Large tables are filled, read and written a chunk at a time: the same values as at once."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfps.embedding import initialization, table
from tfps.embedding.initialization import InitialValue
from tfps.placement.model import Placement
from tfps.placement.routing import Routing
from tfps.placement.spec import VariableSpec
from tfps.strategy.creation import Recipe, create_table

ROWS, DIM = 1003, 6
VALUES = np.arange(ROWS * DIM, dtype=np.float32).reshape(ROWS, DIM)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """A few dozen rows each, where it is else more than a million."""
    monkeypatch.setattr(initialization, "_CHUNK_BYTES", 50 * DIM * 4)
    monkeypatch.setattr(table, "_CHUNK_BYTES", 70 * DIM * 4)


@pytest.fixture(params=["hash", "mod", "div"])
def placement(request):
    """Three shards, two of them on one server."""
    spec = VariableSpec(f"chunks_{request.param}", (ROWS, DIM), is_table=True)
    return Placement.on(spec, [0, 1, 0], Routing(request.param, ROWS, 3))


@pytest.mark.parametrize("initializer", ["uniform", "normal", "glorot_uniform"])
def test_first_values_are_those_of_one_process(strategy, initializer):
    def weights(scope):
        keras.utils.set_random_seed(3)
        with scope:
            layer = keras.layers.Embedding(ROWS, DIM, embeddings_initializer=initializer)
            layer.build()
        return layer.get_weights()[0]

    alone = weights(contextlib.nullcontext())
    assert len(np.unique(alone, axis=0)) == ROWS
    np.testing.assert_allclose(weights(strategy.scope()), alone, rtol=1e-6)


def test_rows_are_drawn_by_range_or_all_at_once(strategy, placement):
    def rows(start, end):
        assert start % 4 == 0 and end - start <= 60, "a chunk"
        return tf.reshape(tf.range(start * DIM, end * DIM, dtype=tf.float32), [-1, DIM])

    for recipe in (Recipe(InitialValue(lambda: None, rows)), Recipe(InitialValue(lambda: tf.constant(VALUES)))):
        np.testing.assert_array_equal(create_table(placement, recipe, True).numpy(), VALUES)


def test_rows_come_and_go_by_their_ids(strategy, placement):
    made = create_table(placement, Recipe(InitialValue(lambda: None, constant=0.5)), True)
    assert (made.numpy() == 0.5).all()
    made.assign(VALUES)
    np.testing.assert_array_equal(made.numpy(), VALUES)
    ids = np.array([[0, 1], [ROWS - 1, 500], [0, ROWS - 2]])
    np.testing.assert_array_equal(made.sparse_read(ids), VALUES[ids])
