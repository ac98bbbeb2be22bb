"""The models of the examples, and the layers of tfps, under "mixed_bfloat16": each has the loss of float32."""

import argparse

import keras
import numpy as np
import pytest

import tfps

ROWS, BATCH, BATCHES = 200, 32, 4


@pytest.fixture
def policy():
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy("float32")


def click_data():
    import clicks

    form, rng = clicks.FORMATS["adult"], np.random.default_rng(0)
    ids = rng.integers(0, ROWS, (BATCHES * BATCH, form.inputs))
    numbers = rng.random((len(ids), len(form.numbers))).astype("float32")
    return (ids, numbers), (ids.sum(1, keepdims=True) % 2).astype("float32")


def click_model(name):
    import importlib

    import clicks

    return importlib.import_module(name).build_model(clicks.FORMATS["adult"], ROWS, 4, [16, 16])


def gru4rec():
    from gru4rec import GRU4Rec

    return GRU4Rec(ROWS, 8)


def session_data():
    rng = np.random.default_rng(0)
    items = rng.integers(1, ROWS, (BATCHES * BATCH, 9))
    # The random items of a step are shared by its sessions, so `fit` gets whole batches.
    return (items[:, :-1], items[:, 1:], items[:, 0]), np.zeros((len(items), 8), "int64")


def online_ctr():
    import clicks
    from online_ctr import build_model

    form = clicks.FORMATS["adult"]
    return build_model(argparse.Namespace(form=form, minutes=1, records=BATCH * BATCHES, batch=BATCH, rate=0.1))


def attention():
    items = keras.Input((8,), dtype="int64")
    rows = keras.layers.Embedding(ROWS, 8)(items)
    mixed = keras.layers.MultiHeadAttention(2, 4)(rows, rows)
    mixed = keras.layers.LayerNormalization()(keras.layers.Add()([rows, mixed]))
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Conv1D(8, 3, activation="gelu")(mixed))
    pooled = keras.layers.Dropout(0.1)(keras.layers.BatchNormalization()(keras.layers.LSTM(8)(mixed)) + pooled)
    return keras.Model(items, keras.layers.Dense(1, "sigmoid")(pooled))


def bags():
    items = keras.Input((8,), dtype="int64")
    mean = tfps.layers.EmbeddingBag(ROWS, 8, combiner="mean")(items)
    grown = keras.layers.Flatten()(tfps.layers.DynamicEmbedding(4)(items))
    hidden = keras.layers.Dense(16, "relu")(keras.layers.Concatenate()([mean, grown]))
    return keras.Model(items, keras.layers.Dense(1, "sigmoid")(hidden))


def item_data():
    items = np.random.default_rng(0).integers(1, ROWS, (BATCHES * BATCH, 8))
    return items, (items.sum(1, keepdims=True) % 2).astype("float32")


MODELS = {
    "ctr_dnn": (lambda: click_model("ctr_dnn"), click_data, "binary_crossentropy"),
    "deepfm": (lambda: click_model("deepfm"), click_data, "binary_crossentropy"),
    "dcn": (lambda: click_model("dcn"), click_data, "binary_crossentropy"),
    "gru4rec": (gru4rec, session_data, keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
    "online_ctr": (online_ctr, click_data, "binary_crossentropy"),
    "attention": (attention, item_data, "binary_crossentropy"),
    "bags": (bags, item_data, "binary_crossentropy"),
}


def first_loss(strategy, name):
    """The mean loss of the first batches, with the same first values under every policy."""
    build, data, loss = MODELS[name]
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = build()
        model.compile("sgd", loss)
    x, y = data()
    # In the order of the arrays, so that both policies see the same batches.
    history = model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    exact = [v for v in (*model.variables, *model.optimizer.variables) if "float" in v.dtype]
    assert exact and {variable.dtype for variable in exact} == {"float32"}
    return history.history["loss"][0], model


@pytest.mark.parametrize("name", ["dcn", "attention", "bags"])
def test_the_loss_is_that_of_float32(strategy, policy, name):
    check(strategy, policy, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ctr_dnn", "deepfm", "gru4rec", "online_ctr"])
def test_the_loss_of_other_examples_is_that_of_float32(strategy, policy, name):
    check(strategy, policy, name)


def check(strategy, policy, name):
    policy("mixed_bfloat16")
    narrow, model = first_loss(strategy, name)
    assert {layer.compute_dtype for layer in model._flatten_layers(include_self=False)} >= {"bfloat16"}
    policy("float32")
    wide, _ = first_loss(strategy, name)
    # bfloat16 has 8 bits, and the model has no more than a few layers.
    assert narrow == pytest.approx(wide, rel=0.03) and np.isfinite(narrow)


def test_word_vectors_are_trained_in_float32(strategy, policy):
    """`SkipGram` trains windows by an op of its own, which has float32 alone."""
    policy("mixed_bfloat16")
    words = np.random.default_rng(0).integers(0, ROWS, (2, 64 * BATCHES))
    with strategy.scope():
        model = tfps.models.SkipGram(ROWS, 8, negatives=2)
        model.compile(tfps.optimizers.Geo(keras.optimizers.SGD(0.1), push_every=2))
    before = model.get_weights()
    history = model.fit(words[0], words[1], batch_size=64, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert all(value.dtype == np.float32 for value in model.get_weights())
    assert any((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))
