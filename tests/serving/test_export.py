"""`fit` with `Export` on a cluster of processes: what a follower has is what the servers have."""

import logging
import threading
import time
import uuid

import keras
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import parquet

import tfps
from tests.embedding.dict_table import DictEmbedding
from tfps.callbacks import Export
from tfps.errors import ConfigError, ExportError, UnsupportedError
from tfps.ops import library
from tfps.saving import version_writer
from tfps.saving.version_list import VersionList
from tfps.serving import Follower
from tfps.serving.local_store import LocalDraft
from tfps.serving.stores import open_store
from tfps.serving.versions import CURRENT, parse_current, parse_version

ROWS = 3000
rng = np.random.default_rng(0)
X = rng.integers(0, ROWS, (4000, 3))
Y = (X.sum(1, keepdims=True) % 2).astype("float32")


def build(strategy, optimizer="adagrad", layer=keras.layers.Embedding):
    keras.utils.set_random_seed(3)
    with strategy.scope():
        ids = keras.Input((3,), dtype="int64")
        wide = keras.layers.Flatten()(layer(ROWS, 8, name="wide")(ids))
        narrow = keras.layers.Flatten()(layer(ROWS, 1, name="narrow")(ids))
        hidden = keras.layers.BatchNormalization(name="norm")(keras.layers.Concatenate()([wide, narrow]))
        model = keras.Model(ids, keras.layers.Dense(1, activation="sigmoid", name="top")(hidden))
        model.compile(optimizer, "binary_crossentropy")
    return model


class Wait(keras.callbacks.Callback):
    """Makes batches take time, so that some versions begin between them."""

    def __init__(self, seconds=0.03):
        super().__init__()
        self.seconds = seconds

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(self.seconds)


def fit(model, *callbacks, examples=4000, epochs=1, batch=100, **kwargs):
    model.fit(X[:examples], Y[:examples], batch_size=batch, epochs=epochs, verbose=0, callbacks=callbacks, **kwargs)


def versions(url):
    """The manifests that `current.json` lists, in order."""
    store = open_store(url)
    current = parse_current(store.read(CURRENT), CURRENT)
    return [parse_version(store.read(f"{one.name}/manifest.json"), one.name) for one in current.entries]


def rows_of(version):
    return {table.name: table.rows for table in version.tables}


def assert_follows(follower, model):
    """The follower has the tables and the dense variables of the model's layers, bit for bit."""
    for layer in ("wide", "narrow"):
        rows, found = follower.lookup(layer, np.arange(ROWS))
        assert found.all()
        np.testing.assert_array_equal(rows, model.get_layer(layer).get_weights()[0])
    dense = {one.path: one.numpy() for layer in ("norm", "top") for one in model.get_layer(layer).variables}
    assert set(dense) <= set(follower.dense)
    for name, value in dense.items():
        np.testing.assert_array_equal(follower.dense[name], value)


MODES = {
    "asynchronous": lambda: "adagrad",
    "momentum": lambda: keras.optimizers.Adam(0.01),
    "geo": lambda: tfps.optimizers.Geo("adagrad", push_every=4),
    "sync": lambda: tfps.optimizers.Sync("adagrad"),
}


@pytest.mark.parametrize(
    "mode", ["asynchronous", "sync", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("momentum", "geo"))]
)
def test_a_follower_has_what_the_servers_have(strategy, tmp_path, mode):
    model = build(strategy, MODES[mode]())
    with Follower(tmp_path / "out", poll_s=0.05, on_gap="raise") as follower:
        fit(model, Export(tmp_path / "out", every_s=0.2, full_every=3), Wait(), epochs=2)
    follower.update()
    assert_follows(follower, model)
    assert follower.step == model.optimizer.iterations.numpy() and follower.version >= 4
    other = Follower(tmp_path / "out", on_gap="raise")
    other.update()
    assert_follows(other, model)


def test_an_object_store(strategy, monkeypatch):
    monkeypatch.setattr(version_writer, "CHUNK_BYTES", 2000)
    monkeypatch.setattr(version_writer, "_FILE_BYTES", 20_000)
    monkeypatch.setattr(version_writer, "_SERVERS_AT_A_TIME", 1)
    url = f"memory://export-{uuid.uuid4().hex}"
    model = build(strategy)
    fit(model, Export(url, every_s=0.2), Wait())
    follower = Follower(url, on_gap="raise")
    follower.update()
    assert_follows(follower, model)
    full = versions(url)[0]
    assert len(full.files) > 4 and {file.path.partition("/")[0] for file in full.files} >= {
        "rows-0-of-2",
        "rows-1-of-2",
    }


def test_a_delta_has_the_rows_that_were_trained_and_no_others(strategy, tmp_path):
    model, few = build(strategy), np.array([[5, 7, 5], [9, 7, 2999]] * 50)
    callback = Export(tmp_path, every_s=1000)
    fit(model, callback, examples=200)
    model.fit(few, np.ones((100, 1)), batch_size=10, verbose=0, callbacks=[callback])
    # The first has all rows; each `fit` ends with one.
    found = versions(tmp_path)
    assert [one.kind for one in found] == ["full", "delta", "delta"]
    assert rows_of(found[0]) == {"wide/embeddings": ROWS, "narrow/embeddings": ROWS}
    assert rows_of(found[2]) == {"wide/embeddings": 4, "narrow/embeddings": 4}
    (file,) = (one.path for one in found[2].files if one.path.startswith("rows-0"))
    table = parquet.read_table(tmp_path / "delta-3" / file)
    assert table.column_names == ["table", "key", "embedding"]
    other = parquet.read_table(tmp_path / "delta-3" / file.replace("rows-0", "rows-1"))
    keys = [*table.column("key").to_pylist(), *other.column("key").to_pylist()]
    assert sorted(keys) == sorted([5, 7, 9, 2999] * 2)
    follower = Follower(tmp_path)
    follower.update()
    assert_follows(follower, model)


@pytest.mark.slow
def test_every_few_versions_one_is_there_in_full_and_old_ones_go(strategy, tmp_path):
    model = build(strategy)
    fit(model, Export(tmp_path, every_s=0.05, full_every=2, keep=2), Wait(), epochs=2)
    found = [(one.kind, one.number) for one in versions(tmp_path)]
    numbers = [number for kind, number in found if kind == "full"]
    assert len(numbers) == 2 and numbers[1] - numbers[0] >= 2 and found[0] == ("full", numbers[0])
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {f"{kind}-{number}" for kind, number in found}


def test_rows_that_were_assigned_make_a_full_version(strategy, tmp_path):
    model, callback = build(strategy), Export(tmp_path, every_s=1000)
    follower = Follower(tmp_path, on_gap="raise")
    fit(model, callback, examples=200)
    follower.update()
    model.get_layer("wide").set_weights([np.full((ROWS, 8), 7, np.float32)])
    fit(model, callback, examples=200)
    # A version of its own: a delta would not have the rows that were assigned.
    newest = [one for one in versions(tmp_path) if one.kind == "full"][-1]
    assert newest.number > follower.version
    assert "delta" not in [one.kind for one in versions(tmp_path) if one.number == newest.number]
    # It takes the place of a delta, so nothing is skipped.
    assert newest.number in follower.update()
    assert_follows(follower, model)


def test_a_restore_makes_a_full_version(strategy, tmp_path):
    model, callback = build(strategy), Export(tmp_path / "out", every_s=1000)
    fit(model, callback, examples=200)
    tfps.checkpoint.save(model, tmp_path / "ckpt")
    fit(model, callback)
    tfps.checkpoint.restore(model, tmp_path / "ckpt")
    fit(model, callback, examples=200)
    follower = Follower(tmp_path / "out")
    follower.update()
    assert_follows(follower, model)


@pytest.mark.parametrize("what", ["a server was replaced", "rows were assigned"])
def test_a_version_whose_rows_were_replaced_while_they_were_read_is_left_out(
    strategy, tmp_path, monkeypatch, caplog, what
):
    model, real, done = build(strategy), LocalDraft.write, []
    table = model.get_layer("wide").embeddings._value

    def write(self, file, data):
        real(self, file, data)
        if self._target.name == "delta-2" and not done:
            done.append(file)
            if what == "a server was replaced":
                strategy.remote_variables.remakes += 1
            else:
                table.assign_rows(np.array([1]), np.full((1, 8), 7, np.float32))

    monkeypatch.setattr(LocalDraft, "write", write)
    fit(model, Export(tmp_path, every_s=0.1), Wait())
    assert done and "delta-2 is left out, because values were restored or assigned" in caplog.text
    found = [(one.kind, one.number, one.parent) for one in versions(tmp_path)]
    assert found[:2] == [("full", 1, None), ("full", 3, 1)] and not (tmp_path / "delta-2").exists()
    follower = Follower(tmp_path, on_gap="raise")
    follower.update()
    assert_follows(follower, model)


@pytest.mark.slow
def test_a_training_that_is_started_again_goes_on_with_larger_numbers(strategy, tmp_path):
    fit(build(strategy), Export(tmp_path, every_s=1000))
    follower = Follower(tmp_path, on_gap="raise")
    before = follower.update()[-1]
    (tmp_path / "delta-70").mkdir()
    model = build(strategy)
    fit(model, Export(tmp_path, every_s=1000))
    assert follower.update() == [71, 72] and before == 2
    assert_follows(follower, model)


@pytest.mark.slow
def test_two_trainings_into_one_folder_are_told(strategy, tmp_path):
    one, two = Export(tmp_path, every_s=1000), Export(tmp_path, every_s=1000)
    fit(build(strategy), one, examples=200)
    model = build(strategy)
    fit(model, two, examples=200)
    with pytest.raises(ExportError, match="another program has written"):
        one.set_model(model)
        one.on_train_begin()


def test_evicted_ids_are_exported(strategy, tmp_path, monkeypatch):
    model, callback = build(strategy), Export(tmp_path, every_s=1000)
    fit(model, callback, examples=200)
    table = model.get_layer("wide").embeddings._value
    assert table.evicted_since(())[0].size == 0 and table.evicted_since(())[1]
    monkeypatch.setattr(table, "evicted_since", lambda cursor: (np.array([3, 2]), True))
    fit(model, callback, examples=200)
    follower = Follower(tmp_path)
    follower.update()
    assert follower.lookup("wide", [1, 2, 3, 4])[1].tolist() == [True, False, False, True]
    assert follower.lookup("narrow", [2])[1].all()
    number = follower.version
    # Where evicted ids were forgotten, only all rows tell what is gone.
    monkeypatch.setattr(table, "evicted_since", lambda cursor: (np.array([], np.int64), False))
    fit(model, callback, examples=200)
    assert [one.kind for one in versions(tmp_path) if one.number > number] == ["full"]


def test_a_slow_store_slows_exports_and_not_training(strategy, tmp_path, monkeypatch):
    model = build(strategy)
    fit(model)
    plain = timed(lambda: fit(model, Wait(0.01)))
    callback, slept = Export(tmp_path, every_s=0.05), []
    real = LocalDraft.write

    def write(self, file, data):
        if threading.current_thread() is not threading.main_thread():
            slept.append(time.sleep(1.0))
        real(self, file, data)

    monkeypatch.setattr(LocalDraft, "write", write)
    ended = []
    last = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ended.append(time.monotonic()))
    began = time.monotonic()
    fit(model, callback, Wait(0.01), last)
    # The end of `fit` waits for the version under way, which takes 4 s; the epoch does not.
    assert slept and ended[0] - began < plain + 2.5
    follower = Follower(tmp_path)
    follower.update()
    assert_follows(follower, model)


@pytest.mark.slow
def test_a_full_version_that_takes_long_delays_no_delta(strategy, tmp_path, monkeypatch):
    monkeypatch.setattr(version_writer, "CHUNK_BYTES", 4000)
    model, real, during = build(strategy), LocalDraft.write, []
    real_publish = VersionList.publish

    def write(self, file, data):
        # The rows were read long before they are listed, so later deltas have newer ones.
        if self._target.name.startswith("full") and self._target.name != "full-1":
            time.sleep(0.3)
        real(self, file, data)

    def publish(self, version):
        during.append((version.kind, self.under_way))
        real_publish(self, version)

    monkeypatch.setattr(LocalDraft, "write", write)
    monkeypatch.setattr(VersionList, "publish", publish)
    fit(model, Export(tmp_path, every_s=0.1, full_every=3), Wait(), epochs=2)
    assert sum(kind == "delta" and under_way is not None for kind, under_way in during) >= 3
    # One that begins reads a full version that was listed after later deltas.
    follower = Follower(tmp_path, on_gap="raise")
    numbers = follower.update()
    assert len(numbers) > 1 and [one.kind for one in versions(tmp_path) if one.number == numbers[0]][-1] == "full"
    assert_follows(follower, model)


def test_a_full_version_that_fails_is_tried_again(strategy, tmp_path, monkeypatch, caplog):
    model, real, failures = build(strategy), LocalDraft.finish, []

    def finish(self):
        if self._target.name.startswith("full") and self._target.name != "full-1" and len(failures) < 2:
            failures.append(self._target.name)
            raise ExportError("cannot write: no space left.")
        real(self)

    monkeypatch.setattr(LocalDraft, "finish", finish)
    fit(model, Export(tmp_path, every_s=0.1, full_every=2), Wait(), epochs=6)
    assert len(failures) == 2 and "a full version was not exported: cannot write: no space left" in caplog.text
    assert [one.number for one in versions(tmp_path) if one.kind == "full"][-1] > 1
    assert not {path.name for path in tmp_path.iterdir()} & set(failures)


def timed(function):
    began = time.monotonic()
    function()
    return time.monotonic() - began


def test_what_could_not_be_written_is_in_the_next_version(strategy, tmp_path, monkeypatch, caplog):
    model, callback = build(strategy), Export(tmp_path, every_s=0.1)
    fit(model, callback, examples=200)
    real, failures = LocalDraft.write, []

    def write(self, file, data):
        if len(failures) < 3 and "rows" in file:
            failures.append(file)
            raise ExportError("cannot write: no space left.")
        real(self, file, data)

    monkeypatch.setattr(LocalDraft, "write", write)
    with caplog.at_level(logging.WARNING, "tfps"):
        fit(model, callback, Wait())
    assert len(failures) == 3 and "was not exported, and training goes on: cannot write: no space left" in caplog.text
    assert not list(tmp_path.glob("*.partial"))
    follower = Follower(tmp_path, on_gap="raise")
    follower.update()
    assert_follows(follower, model)
    # At the end there is no next one.
    monkeypatch.setattr(LocalDraft, "write", lambda *args: (_ for _ in ()).throw(ExportError("the disk is full.")))
    with pytest.raises(ExportError, match="the disk is full"):
        fit(model, callback, examples=200)


def test_an_object_store_that_does_not_answer_stops_no_training(strategy, monkeypatch, caplog):
    url = f"memory://export-{uuid.uuid4().hex}"
    model, callback, left = build(strategy), Export(url, every_s=0.1), [3]
    real = MemoryFileSystem.pipe_file

    def pipe_file(self, path, value, *args, **kwargs):
        if left[0] and "delta" in path:
            left[0] -= 1
            # Of a class that is no OSError, as those of client libraries are.
            raise RuntimeError("the endpoint is gone")
        return real(self, path, value, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe_file)
    fit(model, callback, Wait())
    assert left == [0] and f"cannot write {url}/delta-2/dense.npz: the endpoint is gone" in caplog.text
    follower = Follower(url, on_gap="raise")
    follower.update()
    assert_follows(follower, model)


@pytest.mark.slow
def test_a_version_begins_during_a_long_validation(strategy, tmp_path):
    model, seen = build(strategy), []
    with Follower(tmp_path, poll_s=0.02) as follower:

        class Validation(keras.callbacks.Callback):
            def on_test_batch_end(self, batch, logs=None):
                time.sleep(0.03)
                seen.append(follower.version)

        fit(
            model,
            Export(tmp_path, every_s=0.1),
            Validation(),
            examples=200,
            validation_data=(X, Y),
            validation_batch_size=100,
        )
    assert len(set(seen)) > 2


def test_a_table_kept_elsewhere_is_exported_too(strategy, tmp_path):
    model = build(strategy, layer=DictEmbedding)
    fit(model, Export(tmp_path, every_s=0.3, full_every=2), Wait())
    follower = Follower(tmp_path, on_gap="raise")
    follower.update()
    assert_follows(follower, model)


def test_small_tables_are_dense(strategy, tmp_path, small_tables):
    model = build(strategy)
    fit(model, Export(tmp_path), examples=200)
    follower = Follower(tmp_path)
    follower.update()
    assert follower.tables == {} and "wide/embeddings" in follower.dense
    assert_follows(follower, model)


def test_what_cannot_be_exported_is_refused_before_training(strategy, tmp_path, monkeypatch):
    with pytest.raises(UnsupportedError, match="ParameterServerStrategy.*Received.*Default"):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        model.fit(X[:10], Y[:10], verbose=0, callbacks=[Export(tmp_path)])
    model = build(strategy)
    (tmp_path / CURRENT).write_bytes(b"{}")
    with pytest.raises(ExportError, match="current.json"):
        fit(model, Export(tmp_path))
    monkeypatch.setattr(library, "load", lambda: None)
    with pytest.raises(UnsupportedError, match="needs the C.. ops"):
        fit(build(strategy), Export(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="`keep`.*at least 2"):
        Export(tmp_path, keep=1)
