"""Tables that servers keep in bfloat16: training in every mode, files that go both ways, and what stays float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.embedding.table import Table
from tfps.errors import ConfigError, UnsupportedError
from tfps.placement.spec import TableDtypes

ROWS, SIZE = 200, 16
IDS = np.random.default_rng(3).permutation(np.arange(20 * SIZE * 2) % ROWS).reshape(-1, 2)
LABELS = (IDS[:, :1] % 7 / 7).astype("float32")
STEP = 2.0**-7
"""The step of bfloat16 relative to the power of two below a number."""

OPTIMIZERS = {
    "asynchronous": lambda: keras.optimizers.Adam(0.01),
    "geo": lambda: tfps.optimizers.Geo(keras.optimizers.Adagrad(0.05), push_every=4),
    "sync": lambda: tfps.optimizers.Sync(tfps.optimizers.RowwiseAdagrad(0.05)),
}


@pytest.fixture
def narrow(one_worker, monkeypatch):
    """A strategy that keeps new tables and slots in bfloat16."""
    monkeypatch.setattr(one_worker.factory, "stored", TableDtypes("bfloat16", "bfloat16"))
    return one_worker


def model_of(strategy, optimizer, layer=None):
    keras.utils.set_random_seed(7)
    with strategy.scope():
        inputs = keras.Input((2,), dtype="int64")
        first = layer or keras.layers.Embedding(ROWS, 5, name="rows")
        rows = keras.layers.Flatten()(first(inputs))
        model = keras.Model(inputs, keras.layers.Dense(1)(rows))
        model.compile(optimizer, "mse")
    return model


def fit(model, **arguments):
    return model.fit(IDS, LABELS, batch_size=SIZE, shuffle=False, verbose=0, **arguments)


def tables(model):
    values = [v._value for v in [*model.variables, *model.optimizer.variables]]
    return [value for value in values if isinstance(value, Table)]


def is_bfloat16(values):
    """Whether all numbers are ones that bfloat16 has."""
    return not np.any(np.asarray(values, "float32").view("uint32") & 0xFFFF)


@pytest.mark.parametrize("mode", OPTIMIZERS)
def test_training_is_that_of_float32_but_for_rounding(narrow, monkeypatch, mode):
    model = model_of(narrow, OPTIMIZERS[mode]())
    losses = fit(model, epochs=2).history["loss"]
    rows, *slots = tables(model)
    assert rows.stored_dtype == tf.bfloat16 and rows.dtype == tf.float32
    assert [slot.stored_dtype for slot in slots] == [tf.bfloat16 if slot.dim == 5 else tf.float32 for slot in slots]
    for table in (rows, *slots):
        assert table.numpy().dtype == np.float32
        assert is_bfloat16(table.numpy()) == (table.stored_dtype == tf.bfloat16)
    monkeypatch.setattr(narrow.factory, "stored", TableDtypes())
    wide = model_of(narrow, OPTIMIZERS[mode]())
    exact = fit(wide, epochs=2).history["loss"]
    assert all(table.stored_dtype == tf.float32 for table in tables(wide))
    assert not is_bfloat16(tables(wide)[0].numpy())
    np.testing.assert_allclose(losses, exact, rtol=0.02)
    # Rows move by 0.1 and more, in 4 steps each and epoch.
    np.testing.assert_allclose(rows.numpy(), tables(wide)[0].numpy(), atol=0.02)


def test_every_id_counts(narrow):
    """The gradient of every row that is looked up is -1, so SGD at rate 1 counts ids: exact up to 256 in bfloat16."""
    with narrow.scope():
        table = keras.layers.Embedding(ROWS, 3, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((2,), dtype="int64"), table])
        model.compile(keras.optimizers.SGD(1.0), lambda y, rows: -keras.ops.sum(rows))
    model.fit(IDS, np.zeros((len(IDS), 2, 3), "float32"), batch_size=SIZE, epochs=2, verbose=0)
    counted = 2.0 * np.bincount(IDS.reshape(-1), minlength=ROWS)
    np.testing.assert_array_equal(table.get_weights()[0], np.repeat(counted[:, np.newaxis], 3, 1))


def test_small_updates_are_not_lost(narrow):
    """Each of the steps moves a row by 1/2000 of it, which is an eighth of what rounding to the nearest would see."""
    with narrow.scope():
        table = keras.layers.Embedding(4, 64, embeddings_initializer="ones")
        model = keras.Sequential([keras.Input((1,), dtype="int64"), table])
        model.compile(keras.optimizers.SGD(1 / 2000), lambda y, rows: -keras.ops.sum(rows))
    ids = np.zeros((400, 1), "int64")
    model.fit(ids, np.zeros((400, 1, 64), "float32"), batch_size=1, verbose=0)
    rows = table.get_weights()[0]
    assert rows[0].mean() == pytest.approx(1.2, abs=0.03)
    assert (rows[1:] == 1).all()


def test_files_go_both_ways(narrow, monkeypatch, tmp_path):
    model = model_of(narrow, keras.optimizers.Adagrad(0.1))
    fit(model)
    rows, slot = (table.numpy() for table in tables(model))
    model.save(tmp_path / "model.keras")
    tfps.checkpoint.save(model, tmp_path / "narrow")
    # Plain Keras, and tables of float32, have the same numbers.
    plain = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(plain.layers[1].get_weights()[0], rows)
    monkeypatch.setattr(narrow.factory, "stored", TableDtypes())
    wide = model_of(narrow, keras.optimizers.Adagrad(0.1))
    tfps.checkpoint.restore(wide, tmp_path / "narrow")
    for table, wanted in zip(tables(wide), (rows, slot), strict=True):
        assert table.stored_dtype == tf.float32
        np.testing.assert_array_equal(table.numpy(), wanted)
    # And back, rounded to the nearest.
    fit(wide)
    tfps.checkpoint.save(wide, tmp_path / "wide")
    tfps.checkpoint.restore(model, tmp_path / "wide")
    for table, wanted in zip(tables(model), tables(wide), strict=True):
        np.testing.assert_array_equal(table.numpy(), tf.cast(tf.cast(wanted.numpy(), tf.bfloat16), tf.float32))


def test_a_layer_that_grows_has_a_type_of_its_own(one_worker, tmp_path):
    def build():
        layer = tfps.layers.DynamicEmbedding(5, expected_rows=ROWS, embeddings_dtype="bfloat16")
        return model_of(one_worker, keras.optimizers.Adagrad(0.1), layer)

    model = build()
    before = tables(model)[0].sparse_read(np.arange(ROWS)).numpy()
    assert is_bfloat16(before)
    fit(model)
    rows, slot = tables(model)
    assert (rows.stored_dtype, slot.stored_dtype) == (tf.bfloat16, tf.float32)
    after = rows.sparse_read(np.arange(ROWS)).numpy()
    assert is_bfloat16(after) and (np.abs(after - before) > 0).any(1).all()
    model.save(tmp_path / "model.keras")
    with one_worker.scope():
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert tables(loaded)[0].stored_dtype == tf.bfloat16
    np.testing.assert_array_equal(tables(loaded)[0].sparse_read(np.arange(ROWS)), after)
    # A block has the bits of its row in half the bytes.
    wide = model_of(one_worker, "sgd", tfps.layers.DynamicEmbedding(5, expected_rows=ROWS))
    assert tables(wide)[0].stored_dtype == tf.float32


def test_small_tables_stay_float32(narrow, small_tables):
    model = model_of(narrow, "adagrad")
    assert tables(model) == []
    fit(model)
    assert not is_bfloat16(model.layers[1].get_weights()[0])


@pytest.mark.parametrize("mode", [lambda one: one, tfps.optimizers.Geo, tfps.optimizers.Sync])
def test_the_root_of_a_difference_of_rounded_slots_is_refused(narrow, monkeypatch, mode):
    wanted = r'`slots_dtype` of the strategy must be "float32" for \w*RMSprop\(.*centered='
    with pytest.raises(UnsupportedError, match=wanted):
        fit(model_of(narrow, mode(keras.optimizers.RMSprop(0.01, centered=True))))
    monkeypatch.setattr(narrow.factory, "stored", TableDtypes("bfloat16", "float32"))
    model_of(narrow, mode(keras.optimizers.RMSprop(0.01, centered=True)))


def test_wrong_types_are_refused():
    for name in ("embeddings_dtype", "slots_dtype"):
        with pytest.raises(ConfigError, match=f"`{name}` must be .* Received: 'float16'"):
            tfps.ParameterServerStrategy(**{name: "float16"})
    with pytest.raises(ConfigError, match="`embeddings_dtype` must be .* Received: 'half'"):
        tfps.layers.DynamicEmbedding(4, embeddings_dtype="half")
