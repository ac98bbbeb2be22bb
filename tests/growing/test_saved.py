"""What a table that grows leaves on a disk: exports for plain TensorFlow, weights files, checkpoints, Parquet."""

import subprocess
import sys

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow as tf

import tfps
from tests.growing.models import counter, fixed, growing, model_of, rows_of
from tfps.errors import CheckpointError, ConfigError, InputFileError, UnsupportedError

IDS = np.random.default_rng(3).integers(-40, 40, (160, 3)) * 10**15
LABELS = np.random.default_rng(4).normal(size=(160, 1)).astype("float32")
UNSEEN = np.array([[1, 2, 3], [-7, 2**62, -(2**63)], [5, 10**15, 2**63 - 1]])


def trained(strategy, layer=growing, optimizer="adagrad", **options):
    model = model_of(strategy, layer, optimizer, **options)
    model.fit(IDS, LABELS, batch_size=16, verbose=0)
    return model


def same_rows(one, other):
    assert set(one) == set(other) and len(one) > 30
    assert all((one[i] == other[i]).all() for i in one)


SERVED = {
    "every id": {},
    "the mean of first values": {"admission": tfps.admission.Count(3)},
    "first values": {"admission": tfps.admission.Count(3, reads="first")},
}


@pytest.mark.parametrize(
    "growth", ["every id", "first values", pytest.param("the mean of first values", marks=pytest.mark.slow)]
)
def test_an_export_predicts_the_same_in_plain_tensorflow(strategy, tmp_path, growth):
    model = trained(strategy, **SERVED[growth])
    model.export(tmp_path / "served", verbose=False)
    ids = np.concatenate([IDS, UNSEEN])
    expected = model.predict(ids, verbose=0)
    if growth != "every id":
        served = tf.saved_model.load(str(tmp_path / "served"))
        np.testing.assert_allclose(served.serve(ids).numpy(), expected, rtol=1e-5, atol=1e-6)
        return
    # A process without tfps, and without Keras.
    code = (
        "import sys, numpy as np, tensorflow as tf;"
        "served = tf.saved_model.load(sys.argv[1]);"
        "out = served.serve(np.load(sys.argv[2]));"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'tfps'];"
        "np.save(sys.argv[3], out.numpy())"
    )
    np.save(tmp_path / "ids.npy", ids)
    arguments = [str(tmp_path / name) for name in ("served", "ids.npy", "out.npy")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, cwd=tmp_path, timeout=120)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-5, atol=1e-6)
    # The model trains on as before.
    model.fit(IDS, LABELS, batch_size=16, verbose=0)


def test_first_rows_that_stock_ops_cannot_draw_are_refused(strategy, tmp_path):
    with strategy.scope():
        layer = tfps.layers.DynamicEmbedding(2, keras.initializers.TruncatedNormal(seed=1))
        model = keras.Sequential([keras.Input((1,), dtype="int64"), layer])
        model.compile("sgd", "mse")
    with pytest.raises(UnsupportedError, match="truncated normal"):
        model.export(tmp_path / "served", verbose=False)


@pytest.mark.parametrize("form", ["file", "weights", "servers"])
def test_rows_slots_and_rules_come_back(strategy, tmp_path, form):
    model = trained(strategy, optimizer="adam", admission=tfps.admission.Count(2))
    if form == "file":
        model.save(tmp_path / "model.keras")
        with strategy.scope():
            loaded = keras.models.load_model(tmp_path / "model.keras")
    else:
        loaded = model_of(strategy, growing, "adam", admission=tfps.admission.Count(2), expected_rows=7)
        # Rows of before are not those of the checkpoint.
        loaded.fit(UNSEEN, LABELS[:3], epochs=3, verbose=0)
        if form == "weights":
            model.save_weights(tmp_path / "a.weights.h5")
            loaded.load_weights(tmp_path / "a.weights.h5")
        else:
            tfps.checkpoint.save(model, tmp_path / "a")
            tfps.checkpoint.restore(loaded, tmp_path / "a")
    for name in ("wide", "narrow"):
        same_rows(rows_of(model.get_layer(name)), rows_of(loaded.get_layer(name)))
    assert loaded.get_layer("wide").get_config()["admission"]["n"] == 2
    one, other = (m.train_on_batch(IDS[:16], LABELS[:16]) for m in (model, loaded))
    assert one == pytest.approx(other, rel=1e-6)
    same_rows(rows_of(model.get_layer("wide")), rows_of(loaded.get_layer("wide")))


def test_a_flipped_bit_of_a_weights_file_is_found(strategy, tmp_path):
    model = trained(strategy)
    path = tmp_path / "a.weights.h5"
    model.save_weights(path)
    raw = bytearray(path.read_bytes())
    row = rows_of(model.get_layer("wide"))[int(IDS[0, 0])].tobytes()
    raw[raw.index(row) + 1] ^= 4
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="cannot read variable"):
        model.load_weights(path)


def test_parquet_and_back(strategy, tmp_path):
    model = trained(strategy)
    wide = model.get_layer("wide")
    count = wide.write_parquet(tmp_path / "wide.parquet")
    table = pa.parquet.read_table(tmp_path / "wide.parquet")
    before = rows_of(wide)
    assert count == table.num_rows == len(before) and table.column_names == ["id", "embedding"]
    other = model_of(strategy, growing, "adagrad").get_layer("wide")
    assert other.read_parquet(tmp_path / "wide.parquet") == count
    same_rows(rows_of(other), before)
    with pytest.raises(InputFileError, match="exists"):
        wide.write_parquet(tmp_path / "wide.parquet")
    with pytest.raises(ConfigError, match="must have 1 floats"):
        model.get_layer("narrow").read_parquet(tmp_path / "wide.parquet")
    with pytest.raises(InputFileError, match="cannot read"):
        wide.read_parquet(tmp_path / "nothing.parquet")


def test_a_bad_row_of_a_file_changes_nothing(strategy, tmp_path):
    layer = model_of(strategy, growing, "sgd").get_layer("wide")
    rows = np.ones((300, 4), "float32")
    rows[299, 2] = np.nan
    table = pa.table({"id": np.arange(300), "embedding": pa.array(list(rows))})
    pa.parquet.write_table(table, tmp_path / "nan.parquet")
    with pytest.raises(ConfigError, match="row of id 299"):
        layer.read_parquet(tmp_path / "nan.parquet")
    pa.parquet.write_table(table.rename_columns(["key", "embedding"]), tmp_path / "key.parquet")
    with pytest.raises(ConfigError, match="columns 'id' and 'embedding'"):
        layer.read_parquet(tmp_path / "key.parquet")
    gap = pa.table({"id": pa.array([1, None], pa.int64()), "embedding": pa.array(list(rows[:2]))})
    pa.parquet.write_table(gap, tmp_path / "gap.parquet")
    with pytest.raises(ConfigError, match="must have an id"):
        layer.read_parquet(tmp_path / "gap.parquet")
    with pytest.raises(ConfigError, match="must be finite"):
        layer.assign_rows(np.arange(300), rows)
    assert layer.counts().rows == 0


def test_a_fixed_table_becomes_one_that_grows_and_back(strategy):
    source = model_of(strategy, fixed, "sgd").get_layer("wide")
    model = model_of(strategy, growing, "sgd")
    layer = model.get_layer("wide")
    assert layer.copy_from(source) == 60
    found = rows_of(layer)
    np.testing.assert_array_equal(np.stack([found[i] for i in range(60)]), source.get_weights()[0])
    layer.assign_rows([3], np.full((1, 4), 9.0))
    target = model_of(strategy, fixed, "sgd", rows=80).get_layer("wide")
    assert layer.copy_to(target) == 60
    assert target.get_weights()[0][3].tolist() == [9.0] * 4
    layer.assign_rows([80], np.ones((1, 4)))
    before = target.get_weights()[0]
    with pytest.raises(ConfigError, match="below the 80 rows"):
        layer.copy_to(target)
    np.testing.assert_array_equal(target.get_weights()[0], before)
    plain = keras.layers.Embedding(81, 4)
    plain.build()
    assert layer.copy_to(plain) == 61 and plain.get_weights()[0][80].tolist() == [1.0] * 4


def test_there_is_no_matrix(strategy):
    layer = counter(strategy).get_layer("counts")
    for use in (
        lambda: np.asarray(layer.embeddings),
        lambda: layer.get_weights(),
        lambda: tf.convert_to_tensor(layer.table),
        lambda: layer.table[0],
        lambda: layer.table.assign(np.zeros((3, 1))),
    ):
        with pytest.raises((UnsupportedError, NotImplementedError), match="grows"):
            use()


def test_without_parameter_servers_it_is_refused_by_name():
    model = keras.Sequential([keras.Input((1,), dtype="int64"), tfps.layers.DynamicEmbedding(2, name="items")])
    with pytest.raises(Exception, match="layer 'items' needs parameter servers"):
        model.predict(np.zeros((1, 1), "int64"), verbose=0)
