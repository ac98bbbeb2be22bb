"""EmbeddingBag: bags of every kind against sums by hand; trained and saved in a scope as in one process."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.embedding.sharded_table import ShardedTable
from tfps.embedding.table import Table
from tfps.errors import ConfigError

ROWS, DIM = 3000, 4
BAGS = [[100, 2900, 100], [], [7], [0, 7, 0, 2000]]
WEIGHTS = [[0.5, 2.0, 1.0], [], [3.0], [1.0, 0.25, -1.0, 2.0]]


def pooled_by_hand(rows, combiner, weights, mask_zero):
    def bag(ids, weights):
        pairs = [(rows[i], w) for i, w in zip(ids, weights, strict=True) if i or not mask_zero]
        total = sum((row * w for row, w in pairs), np.zeros(DIM))
        each = [w for _, w in pairs]
        by = {"sum": 1.0, "mean": sum(each), "sqrtn": np.sqrt(np.square(each).sum())}[combiner]
        return total / by if by else np.zeros(DIM)

    return [bag(ids, own) for ids, own in zip(BAGS, weights, strict=True)]


@pytest.mark.parametrize("on_servers", [False, True])
@pytest.mark.parametrize("mask_zero", [False, True])
@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
def test_bags_of_every_kind_are_pooled(strategy, combiner, mask_zero, on_servers):
    with strategy.scope() if on_servers else contextlib.nullcontext():
        layer = tfps.layers.EmbeddingBag(ROWS, DIM, combiner=combiner, mask_zero=mask_zero)
        layer.build()
    assert isinstance(layer.embeddings._value, Table) == on_servers
    ids, weights = tf.ragged.constant(BAGS), tf.ragged.constant(WEIGHTS)
    ones = [[1.0] * len(ids) for ids in BAGS]
    for given, by_hand in ((None, ones), (weights, WEIGHTS)):
        expected = pooled_by_hand(layer.get_weights()[0], combiner, by_hand, mask_zero)
        np.testing.assert_allclose(layer(ids, given), expected, atol=1e-6)
        np.testing.assert_allclose(
            layer(ids.to_sparse(), None if given is None else given.to_sparse()), expected, atol=1e-6
        )
    padded = layer(ids.to_tensor(), weights.to_tensor())  # padding has weight 0
    np.testing.assert_allclose(padded, expected, atol=1e-6)
    cubes = layer(tf.reshape(ids.to_tensor(), [2, 2, -1]), tf.reshape(weights.to_tensor(), [2, 2, -1]))
    np.testing.assert_allclose(tf.reshape(cubes, padded.shape), expected, atol=1e-6)
    assert layer(tf.zeros([3, 0], tf.int64)).numpy().tolist() == [[0.0] * DIM] * 3
    if mask_zero:
        np.testing.assert_allclose(layer(ids.to_tensor()), layer(ids), atol=1e-6)


@keras.saving.register_keras_serializable("tests")
class Model(keras.Model):
    """Takes ragged ids, and dense ones with weights; as a class, because `keras.Input` knew no ragged tensors once."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = tfps.layers.EmbeddingBag(ROWS, DIM)
        self.second = tfps.layers.EmbeddingBag(ROWS, DIM, combiner="sqrtn")
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        bags, ids, weights = x
        return self.dense(tf.concat([self.first(bags), self.second(ids, weights=weights)], -1))


def build():
    model = Model()
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss="mse")  # with others Keras takes an id twice for two
    return model


def batch():
    random = np.random.default_rng(0)
    x = (tf.ragged.constant(BAGS, tf.int64), random.integers(0, ROWS, (4, 3)), random.random((4, 3), "float32"))
    return tf.data.Dataset.from_tensors((x, random.random((4, 1), "float32")))


def trained(scope):
    keras.utils.set_random_seed(5)
    with scope:
        model = build()
    model.fit(batch(), epochs=3, verbose=0)
    return model


def test_a_fit_gives_what_one_process_gives_and_is_saved(strategy, tmp_path):
    ours, theirs = trained(strategy.scope()), trained(contextlib.nullcontext())
    assert [type(layer.embeddings._value) for layer in (ours.first, ours.second)] == [ShardedTable, ShardedTable]
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    ours.save(tmp_path / "m.keras")
    alone = keras.models.load_model(tmp_path / "m.keras")
    copy = type(ours.second).from_config(ours.second.get_config())
    assert copy.combiner == "sqrtn" and copy.get_config() == ours.second.get_config()
    with strategy.scope():
        loaded = keras.models.load_model(tmp_path / "m.keras")
    for one, other, third in zip(ours.weights, loaded.weights, alone.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
        np.testing.assert_array_equal(one.numpy(), third.numpy())
    loaded.compile(loss="mse")
    assert loaded.evaluate(batch(), verbose=0) == pytest.approx(theirs.evaluate(batch(), verbose=0), rel=1e-3)


def test_wrong_arguments_are_told_what_is_valid():
    with pytest.raises(ConfigError, match="combiner.*sqrtn.*'max'"):
        tfps.layers.EmbeddingBag(3, 2, combiner="max")
    layer = tfps.layers.EmbeddingBag(3, 2)
    with pytest.raises(ValueError, match="weights"):
        layer(np.zeros((2, 3), "int64"), weights=np.zeros((2, 1)))
    with pytest.raises(TypeError, match="weights.*Ragged"):
        layer(np.zeros((2, 3), "int64"), weights=tf.ragged.constant([[1.0], [1.0]]))
    with pytest.raises(ValueError, match="dimension"):
        layer(keras.Input((), dtype="int64"))
    with pytest.raises(Exception, match="-1"):
        layer(np.array([[0, -1]]))
    assert layer(keras.Input((None, 5), dtype="int32")).shape == (None, None, 2)
