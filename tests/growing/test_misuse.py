"""What users get wrong, and what a first look would not find: masks, regularizers, float ids, budgets of servers."""

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow as tf

import tfps
from tests.growing.models import counter, fixed, growing, model_of, rows_of
from tfps.errors import ConfigError, UnsupportedError


@pytest.mark.parametrize("dtype", ["int64", "string"])
def test_a_mask_goes_to_the_next_layer(strategy, dtype):
    ids = np.array([[0, 1, 2, 0], [3, 0, 0, 0]] * 4)
    texts = np.where(ids == 0, "", ids.astype(str)).astype(object)
    with strategy.scope():
        layer = tfps.layers.DynamicEmbedding(4, keras.initializers.RandomUniform(seed=1), mask_zero=True)
        model = keras.Sequential([keras.Input((4,), dtype=dtype), layer, keras.layers.LSTM(3)])
        model.compile("sgd", "mse")
    model.fit(tf.constant(texts if dtype == "string" else ids), np.zeros((8, 3)), verbose=0)
    mask = layer.compute_mask(tf.constant(texts if dtype == "string" else ids))
    np.testing.assert_array_equal(mask, ids != 0)
    # What is masked changes nothing: a shorter padding gives the same.
    inputs = texts if dtype == "string" else ids
    one, other = (model.predict(tf.constant(part[:2]), verbose=0) for part in (inputs, np.roll(inputs, 0)))
    np.testing.assert_allclose(one, other)


@pytest.mark.parametrize("kind", ["layer", "bag"])
def test_a_regularizer_sees_the_rows_of_a_batch(one_worker, kind):
    found = []
    for grows in (True, False):
        l2 = keras.regularizers.L2(0.05)
        with one_worker.scope():
            if kind == "layer":
                options = {"embeddings_initializer": "ones", "embeddings_regularizer": l2}
                layer = tfps.layers.DynamicEmbedding(1, **options) if grows else keras.layers.Embedding(9, 1, **options)
            else:
                options = {"embeddings_initializer": "ones", "embeddings_regularizer": l2, "combiner": "sum"}
                bag = tfps.layers.DynamicEmbeddingBag, tfps.layers.EmbeddingBag
                layer = bag[0](1, **options) if grows else bag[1](9, 1, **options)
            inputs = keras.Input((2,), dtype="int64")
            model = keras.Model(inputs, keras.layers.Flatten()(layer(inputs)))
            model.compile(keras.optimizers.SGD(1.0), loss=lambda _, y: 0.0 * keras.ops.sum(y))
        model.fit(np.array([[1, 2], [2, 3]]), np.zeros(2), batch_size=2, verbose=0)
        table = layer.embeddings._value
        found.append(table.sparse_read(tf.constant([1, 2, 3])).numpy())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    assert (found[0] < 1).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layer", [tfps.layers.DynamicEmbedding, tfps.layers.DynamicEmbeddingBag])
def test_float_ids_are_refused(strategy, layer, dtype):
    with strategy.scope():
        with pytest.raises(Exception, match=f"Received: {dtype}(.|\n)*keras.Input"):
            layer(2)(keras.Input((4,), dtype=dtype))
        with pytest.raises(Exception, match=f"Received: {dtype}(.|\n)*keras.Input"):
            layer(2)(tf.zeros([2, 4], dtype))


def test_ragged_ids_belong_in_a_bag(strategy):
    with strategy.scope(), pytest.raises(Exception, match="Valid: DynamicEmbeddingBag"):
        tfps.layers.DynamicEmbedding(2)(tf.ragged.constant([[1], [2, 3]]))


def test_outside_a_scope_nothing_is_made():
    layer = tfps.layers.DynamicEmbedding(16, max_rows=10**12, name="items")
    # A matrix of that size would fit no machine.
    with pytest.raises(UnsupportedError, match="layer 'items' needs parameter servers"):
        layer(np.array([1]))
    assert not layer.built


def test_a_full_table_is_restored_whole(strategy, tmp_path):
    growth = {"max_rows": 400, "eviction": tfps.eviction.LeastRecent()}
    model = counter(strategy, **growth)
    ids = np.random.default_rng(0).integers(0, 2**60, 2000).reshape(-1, 2)
    model.fit(ids, np.zeros(1000), batch_size=20, verbose=0)
    before = rows_of(model.get_layer("counts"))
    tfps.checkpoint.save(model, tmp_path / "a")
    # Half of the budget: all rows come, and the next updates evict.
    smaller = counter(strategy, max_rows=200, eviction=tfps.eviction.LeastRecent())
    tfps.checkpoint.restore(smaller, tmp_path / "a")
    after = rows_of(smaller.get_layer("counts"))
    assert set(after) == set(before) and len(after) > 300
    smaller.fit(ids[:200], np.zeros(200), batch_size=20, verbose=0)
    assert smaller.get_layer("counts").counts().rows <= 200


def test_bytes_are_for_each_server(strategy):
    # A row is one shard; a plan of more rows has one on each server.
    for budget, shards in ((1, 1), (600_000, 2), (2**20, 2), (2 * 2**20 - 1, 2)):
        least = f"`max_bytes` must be at least {shards * 2**20:,}: 1 MiB for each shard, of {shards}"
        with pytest.raises(ConfigError, match=least):
            counter(strategy, max_bytes=budget)
    counter(strategy, max_bytes=2 * 2**20)
    with pytest.raises(ConfigError, match="`max_bytes` must be at least"):
        counter(strategy, max_bytes=3 * 2**20, admission=tfps.admission.Count(2, filter_ids=10**7))


REFUSED = {
    "float ids": (lambda one: one.assign_rows([1.5], [[1.0]]), "`ids` must be integers"),
    "an id twice": (lambda one: one.assign_rows([7, 7], [[1.0], [2.0]]), "Received: 7 more than once"),
    "the width": (lambda one: one.assign_rows([7], [[1.0, 2.0]]), r"`rows` must be numbers, \[1, 1\]"),
    "text": (lambda one: one.assign_rows([7], [["a"]]), "`rows` must be numbers"),
    "a score": (lambda one: one.add_scores([1], [np.nan]), "`amounts` must be finite"),
    "pinned": (lambda one: one.pin([1], "yes"), "`pinned` must be True or False"),
    "chunks": (lambda one: list(one.rows(0)), "`chunk_rows` must be"),
    "no layer": (lambda one: one.copy_from(3), "`layer` must be a keras.layers.Embedding"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_values_are_named(strategy, name):
    use, message = REFUSED[name]
    layer = counter(strategy, eviction=tfps.eviction.Score(1.0, 10)).get_layer("counts")
    with pytest.raises(ConfigError, match=message):
        use(layer)
    layer.assign_rows([], np.zeros((0, 1)))
    assert layer.counts().rows == 0


BAD_FILES = {
    "text": ({"id": ["a"], "embedding": [[1.0]]}, "must be int64 and a list"),
    "floats": ({"id": [1.5], "embedding": [[1.0]]}, "must be int64 and a list"),
    "flat": ({"id": [1], "embedding": [1.0]}, "must be int64 and a list"),
    "twice": ({"id": [1, 1], "embedding": [[1.0], [2.0]]}, "id 1 more than once"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_of_other_columns_are_named(strategy, tmp_path, name):
    columns, message = BAD_FILES[name]
    pa.parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    layer = counter(strategy).get_layer("counts")
    with pytest.raises(ConfigError, match=message):
        layer.read_parquet(tmp_path / "a.parquet")
    assert layer.counts().rows == 0


@keras.saving.register_keras_serializable("tests")
class Listed(tfps.admission.Filter):
    """Admits the ids of a list."""

    def __init__(self, ids):
        self.ids = list(ids)

    def admits(self, ids):
        return tf.reduce_any(ids[:, tf.newaxis] == tf.constant(self.ids, tf.int64), axis=1)

    def get_config(self):
        return {"ids": self.ids}


def test_a_rule_of_the_user_is_saved_with_the_model(strategy, tmp_path):
    model = counter(strategy, admission=Listed([4, 5]))
    with strategy.scope():
        again = type(model.get_layer("counts")).from_config(model.get_layer("counts").get_config())
    assert again.get_config()["admission"]["config"] == {"ids": [4, 5]}
    rules = {"eviction": tfps.eviction.Score(1.0, 10), "admission": tfps.admission.Count(3, 4096), "max_bytes": 3 << 20}
    layer = tfps.layers.DynamicEmbedding(4, **rules)
    copy = tfps.layers.DynamicEmbedding.from_config(layer.get_config())
    assert copy._growth == layer._growth


def test_arguments_of_a_fixed_table_are_refused():
    with pytest.raises(UnsupportedError, match="`embeddings_constraint` must be None"):
        tfps.layers.DynamicEmbedding(2, embeddings_constraint="non_neg")
    with pytest.raises(ConfigError, match="`input_dim` must be left out"):
        tfps.layers.DynamicEmbedding(2, input_dim=3)
    with pytest.raises(ConfigError, match="one of .*Received: 'Nope'"):
        tfps.layers.DynamicEmbedding(2, eviction={"rule": "Nope"})


def test_a_fixed_table_beside_it_is_as_ever(strategy):
    with strategy.scope():
        inputs = keras.Input((3,), dtype="int64")
        rows = [keras.layers.Flatten()(layer(name, 4, 3)(inputs)) for name, layer in (("one", growing), ("two", fixed))]
        model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(rows)))
        model.compile("adagrad", "mse")
    ids = np.random.default_rng(0).integers(0, 60, (64, 3))
    model.fit(ids, np.ones((64, 1)), batch_size=16, verbose=0)
    assert model_of(strategy, fixed, "sgd").count_params() > 0 and np.isfinite(model.predict(ids, verbose=0)).all()
