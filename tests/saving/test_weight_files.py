"""Weights files of Keras: tables cross the chief in blocks, plain Keras reads them, and what is broken is named."""

import resource
from unittest import mock

import h5py
import keras
import numpy as np
import pytest

from tests.saving.models import ROWS, X, Y, assert_same, build
from tfps.embedding.table import Table
from tfps.errors import CheckpointError
from tfps.keras import h5_chunks, weight_files
from tfps.keras._compat import Variable


@pytest.fixture(scope="module")
def trained(strategy):
    with strategy.scope():
        model = build()
    model.fit(X[:200], Y[:200], batch_size=40, verbose=0)
    return model


@pytest.fixture
def other(strategy):
    with strategy.scope():
        model = build()
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def in_blocks(monkeypatch):
    """Blocks of some rows; and no table is ever whole on the chief."""
    monkeypatch.setattr(weight_files, "_BLOCK_BYTES", 20_000)
    monkeypatch.setattr(weight_files, "_LAZY_BYTES", 5_000)
    monkeypatch.setattr(h5_chunks, "_CHUNK_BYTES", 5_000)
    monkeypatch.setattr(Table, "numpy", None)
    monkeypatch.setattr(Table, "_chunk_rows", 700)
    monkeypatch.setattr(weight_files.SavedRows, "__array__", None)


def saved(model):
    """The values that Keras saves: not the random state of a layer."""
    variables = [*model.variables, *model.optimizer.variables]
    return [whole(one) for one in variables if not one.path.startswith("seed")]


def whole(variable):
    """The value of a variable, a table by its blocks."""
    if isinstance(variable._value, Table):
        return np.concatenate(list(variable._value.blocks(1000)))
    return variable.numpy()


@pytest.mark.parametrize("name", ["m.weights.h5", "m.keras"])
def test_no_table_is_whole_on_the_chief_and_plain_keras_reads_it(strategy, trained, other, tmp_path, in_blocks, name):
    path, plain = tmp_path / name, build()
    plain.optimizer.build(plain.trainable_variables)
    if name == "m.keras":
        trained.save(path)
        with strategy.scope():
            other = keras.models.load_model(path)
        plain = keras.models.load_model(path)
    else:
        trained.save_weights(path)
        other.load_weights(path)
        plain.load_weights(path)
    assert [one for one in tmp_path.iterdir()] == [path]
    assert_same(saved(trained), saved(other))
    assert_same(saved(trained), saved(plain))


def test_plain_files_and_files_in_shards(trained, other, tmp_path):
    plain = build()
    plain.optimizer.build(plain.trainable_variables)
    plain.save_weights(tmp_path / "plain.weights.h5")
    other.load_weights(tmp_path / "plain.weights.h5")
    assert_same(saved(plain), saved(other))
    try:
        trained.save_weights(tmp_path / "m.weights.json", max_shard_size=1e-4)
    except TypeError:
        pytest.skip("this Keras writes no shards")
    for model in (other, plain):
        model.load_weights(tmp_path / "m.weights.json")
        assert_same(saved(trained), saved(model))


def test_rows_come_in_the_order_of_ids(trained):
    table = trained.get_layer("wide").embeddings._value
    expected = table.numpy()
    for rows in (1, 7, 1000, ROWS, 10_000):
        blocks = list(table.blocks(rows)) if rows > 1 else [next(table.blocks(1))]
        assert all(len(block) == min(rows, ROWS) for block in blocks[:-1])
        np.testing.assert_array_equal(np.concatenate(blocks), expected[: 1 if rows == 1 else None])


def test_one_flipped_bit_is_named(trained, other, tmp_path):
    path, broken = tmp_path / "m.weights.h5", tmp_path / "broken.weights.h5"
    trained.save_weights(path)
    content, wanted = path.read_bytes(), saved(trained)
    rng = np.random.default_rng(5)
    found = 0
    for bit in rng.integers(0, 8 * len(content), 10):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << (bit % 8)
        broken.write_bytes(flipped)
        for variable in [*other.variables, *other.optimizer.variables]:
            variable.assign(np.zeros_like(whole(variable)))
        try:
            other.load_weights(broken)
        except (CheckpointError, ValueError, KeyError) as error:
            found += isinstance(error, CheckpointError) and str(broken) in str(error)
        else:
            # The bit was in the slack of the file.
            assert_same(wanted, saved(other))
    assert found >= 5


def place_of(path, name):
    """Where a dataset of one chunk is in a file."""
    with h5py.File(path) as file:
        dataset = file[name]
        place = dataset.id.get_offset() if dataset.chunks is None else dataset.id.get_chunk_info(0).byte_offset
    return place


@pytest.mark.parametrize(
    "name, plain_sees",
    [("layers/embedding/vars/0", True), ("layers/dense/vars/1", True), ("optimizer/vars/0", False)],
)
def test_a_broken_variable_is_named(trained, other, tmp_path, name, plain_sees):
    path = tmp_path / "m.weights.h5"
    trained.save_weights(path)
    content, place = bytearray(path.read_bytes()), place_of(path, name)
    content[place + 2] ^= 8
    path.write_bytes(content)
    for arguments in ({}, {"skip_mismatch": True}):
        with pytest.raises(CheckpointError) as caught:
            other.load_weights(path, **arguments)
        assert f"/{name}'" in str(caught.value) and str(path) in str(caught.value)
    plain = build()
    plain.optimizer.build(plain.trainable_variables)
    if plain_sees:
        with pytest.raises((ValueError, OSError), match=r"[Cc]an't (synchronously )?read data"):
            plain.load_weights(path)
    content = content[: len(content) // 2]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot read .*m.weights.h5.*truncated file"):
        other.load_weights(path)
    with pytest.raises(FileNotFoundError):
        other.load_weights(tmp_path / "none.weights.h5")


def test_a_table_of_another_shape_is_named(strategy, trained, tmp_path, in_blocks):
    trained.save_weights(tmp_path / "m.weights.h5")
    with strategy.scope():
        wider = build(rows=ROWS + 1)
    with pytest.raises(ValueError, match=r"wide/embeddings' must have its shape. Received: \(3000, 8\)"):
        wider.load_weights(tmp_path / "m.weights.h5")


def test_a_disk_that_fills_up_is_named(trained, tmp_path):
    """The file cannot grow. Chunks in the cache of HDF5 would crash the process later."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        for save, name in ((trained.save_weights, "m.weights.h5"), (trained.save, "m.keras")):
            with pytest.raises(CheckpointError, match=r"cannot write variable '/\S+' of \S+: .*[Ff]ile too large"):
                save(tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    "shape, dtype", [((9, 3, 2), "float64"), ((7,), "uint8"), ((5000, 3), "int16"), ((4,), "bool")]
)
def test_hdf5_verifies_the_checksums(tmp_path, monkeypatch, shape, dtype):
    monkeypatch.setattr(h5_chunks, "_CHUNK_BYTES", 100)
    random = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    values = [random, np.zeros(shape, dtype), np.full(shape, -1).astype(dtype)]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for number, array in enumerate(values):
            h5_chunks.ChunkedDataset(file, str(number), shape, np.dtype(dtype)).write(0, array)
    with h5py.File(tmp_path / "x.h5") as file:
        for number, array in enumerate(values):
            np.testing.assert_array_equal(file[str(number)][...], array)


def test_functions_of_keras_wait_for_the_steps_under_way(trained, tmp_path, monkeypatch):
    waits = mock.Mock()
    monkeypatch.setattr(weight_files, "steps_of", waits)
    keras.saving.save_weights(trained, tmp_path / "m.weights.h5")
    keras.saving.load_weights(trained, tmp_path / "m.weights.h5")
    assert waits.mock_calls == 2 * [mock.call(trained), mock.call().settle()]


def test_saved_rows_are_an_array_for_a_layer_of_the_users_own(strategy, tmp_path):
    class Doubles(keras.layers.Embedding):
        def load_own_variables(self, store):
            saved = store["0"]
            assert len(saved) == ROWS and saved.mean().shape == ()
            self.embeddings.assign(2 * saved + saved[:1] * 0)

    with strategy.scope():
        model = keras.Sequential([keras.Input((3,), dtype="int64"), Doubles(ROWS, 2)])
    before = model.get_weights()[0]
    model.save_weights(tmp_path / "m.weights.h5")
    model.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(model.get_weights()[0], 2 * before)


def test_another_model_is_left_alone(tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save_weights(tmp_path / "m.weights.h5")
    with h5py.File(tmp_path / "m.weights.h5") as file:
        file.visititems(lambda name, one: pytest.fail(name) if weight_files.CHECKSUM in one.attrs else None)
    assert isinstance(Variable([1.0]).assign([2.0]), object)
