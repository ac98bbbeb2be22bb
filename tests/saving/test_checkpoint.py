"""A checkpoint is written by the servers, is complete or not there, and is refused by name if it is broken."""

import json
import multiprocessing
import os
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.saving.models import ROWS, X, Y, assert_same, build, values
from tfps.errors import CheckpointError, CheckpointMismatchError, ConfigError
from tfps.saving import rows as row_sources
from tfps.saving.folders import LocalFolder
from tfps.saving.manifest import parse


@pytest.fixture(scope="module")
def trained(strategy):
    with strategy.scope():
        model = build()
    model.fit(X, Y, batch_size=40, verbose=0)
    return model


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "ckpt-30"
    tfps.checkpoint.save(trained, path)
    return path


@pytest.fixture(scope="module")
def other(strategy):
    with strategy.scope():
        return build()


def written_by(pids):
    """The bytes that processes have written so far, by the kernel's count."""
    return [int(pathlib.Path(f"/proc/{pid}/io").read_text().split("wchar: ")[1].split()[0]) for pid in pids]


def server_pids(strategy):
    """The processes of the servers, as they report themselves."""
    pids = []
    for server in range(strategy.num_servers):
        text = strategy.pools.each_server.call(server, lambda: tf.io.read_file("/proc/self/stat"))
        pids.append(int(bytes(text).split()[0]))
    return pids


def test_servers_write_their_rows_and_the_chief_only_what_is_dense(strategy, tmp_path):
    with strategy.scope():
        model = build("adagrad", rows=200_000)
    model.optimizer.build(model.trainable_variables)
    pids = [*server_pids(strategy), os.getpid()]
    before = written_by(pids)
    tfps.checkpoint.save(model, tmp_path / "a")
    first, second, chief = np.subtract(written_by(pids), before)
    of_tables = 200_000 * 9 * 2 * 4
    # Each half of the rows and their slots, and less than a tenth more for indexes and messages.
    assert all(of_tables / 2 <= one < 1.1 * of_tables / 2 for one in (first, second))
    assert chief < 0.02 * of_tables


def test_a_row_is_in_one_part_whatever_the_size_of_parts(strategy, trained, other, tmp_path, monkeypatch):
    monkeypatch.setattr(row_sources, "PART_BYTES", 10_000)
    tfps.checkpoint.save(trained, tmp_path / "a")
    manifest = parse((tmp_path / "a" / "manifest.json").read_bytes(), "")
    for table in manifest.tables:
        assert sum(part.rows for part in table.parts) == ROWS
        assert len(table.parts) >= 4
    tfps.checkpoint.restore(other, tmp_path / "a")
    assert_same(values(trained), values(other))


def test_plain_keras_reads_and_writes_them(strategy, trained, saved, other, tmp_path):
    plain = build()
    tfps.checkpoint.restore(plain, saved)
    assert_same(values(trained), values(plain))
    tfps.checkpoint.save(plain, tmp_path / "plain")
    other.set_weights([np.zeros_like(one) for one in other.get_weights()])
    tfps.checkpoint.restore(other, tmp_path / "plain")
    assert_same(values(trained), values(other))


def test_what_servers_do_not_see_goes_through_the_chief_in_parts(strategy, trained, other, tmp_path, monkeypatch):
    """As on hosts without a common file system: the servers do not find the chief's files."""
    monkeypatch.setattr("tfps.saving.bundles.sees", lambda device, path, token: False)
    monkeypatch.setattr(row_sources, "PART_BYTES", 10_000)
    pids = [*server_pids(strategy), os.getpid()]
    before = written_by(pids)
    tfps.checkpoint.save(trained, tmp_path / "a")
    first, second, chief = np.subtract(written_by(pids), before)
    of_tables = ROWS * 9 * 3 * 4
    # What servers send is no file.
    assert chief > of_tables > 10 * max(first, second)
    other.set_weights([np.zeros_like(one) for one in other.get_weights()])
    tfps.checkpoint.restore(other, tmp_path / "a")
    assert_same(values(trained), values(other))


def test_object_stores(trained, other, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setattr(row_sources, "PART_BYTES", 20_000)
    tfps.checkpoint.save(trained, "memory://runs/one")
    files = fsspec.filesystem("memory")
    assert files.exists("/runs/one/manifest.json")
    other.set_weights([np.zeros_like(one) for one in other.get_weights()])
    tfps.checkpoint.restore(other, "memory://runs/one")
    assert_same(values(trained), values(other))
    with pytest.raises(CheckpointError, match=r"`path` must be new"):
        tfps.checkpoint.save(trained, "memory://runs/one")
    files.rm_file("/runs/one/rows-0-of-2/part-00000.index")
    with pytest.raises(CheckpointError, match=r"memory://runs/one/rows-0-of-2/part-00000.index is missing"):
        tfps.checkpoint.restore(other, "memory://runs/one")
    with pytest.raises(CheckpointError, match=r"there is no complete checkpoint memory://runs/two"):
        tfps.checkpoint.restore(other, "memory://runs/two")
    with pytest.raises(ConfigError, match=r"`path` must be a URL that fsspec can open"):
        tfps.checkpoint.save(trained, "nowhere://x/y")


def test_a_part_of_a_model_is_restored(strategy, trained, saved, other):
    zeros = [np.zeros_like(one) for one in other.get_weights()]
    other.set_weights(zeros)
    tfps.checkpoint.restore(other, saved, only=["wide"])
    np.testing.assert_array_equal(other.get_layer("wide").get_weights()[0], trained.get_layer("wide").get_weights()[0])
    assert not other.get_layer("narrow").get_weights()[0].any()
    # Another model with one layer of that name.
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,), dtype="int64"), keras.layers.Embedding(ROWS, 8, name="wide")])
    tfps.checkpoint.restore(model, saved, only=["wide"])
    np.testing.assert_array_equal(model.get_weights()[0], trained.get_layer("wide").get_weights()[0])
    with pytest.raises(CheckpointMismatchError, match=r"`only` must name layers or variables.*'wise'.*wide/embeddings"):
        tfps.checkpoint.restore(model, saved, only=["wise"])


def test_another_model_is_refused_before_anything_changes(strategy, saved):
    with strategy.scope():
        wider = build(rows=ROWS + 1)
        fewer = keras.Sequential([keras.Input((3,), dtype="int64"), keras.layers.Embedding(ROWS, 8, name="wide")])
        fewer.compile("adam", "mse")
    wider.optimizer.build(wider.trainable_variables)
    before = values(wider)
    with pytest.raises(CheckpointMismatchError, match=r"wide/embeddings' has shape \(3000, 8\) there, and \(3001, 8\)"):
        tfps.checkpoint.restore(wider, saved)
    assert_same(before, values(wider))
    with pytest.raises(CheckpointMismatchError, match=r"Not in the model: model/wide/embeddings, model/nar"):
        tfps.checkpoint.restore(fewer, saved)


FILES = (
    "manifest.json",
    "dense-00000.index",
    "dense-00000.data-00000-of-00001",
    "rows-0-of-2/part-00000.index",
    "rows-1-of-2/part-00001.data-00000-of-00001",
)


@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_is_named(saved, other, tmp_path, name):
    broken = tmp_path / "ckpt-30"
    shutil.copytree(saved, broken)
    content = (broken / name).read_bytes()
    rng = np.random.default_rng(1)
    for bit in rng.integers(0, 8 * len(content), 3):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << (bit % 8)
        (broken / name).write_bytes(flipped)
        with pytest.raises(CheckpointError, match=name):
            tfps.checkpoint.restore(other, broken)
    for changed in (content[:-1], content + b"\n", b""):
        (broken / name).write_bytes(changed)
        # A line end after JSON says nothing else.
        if name == "manifest.json" and changed == content + b"\n":
            continue
        with pytest.raises(CheckpointError, match=name):
            tfps.checkpoint.restore(other, broken)
    (broken / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        tfps.checkpoint.restore(other, broken)


def test_a_file_of_another_checkpoint_is_named(trained, saved, other, tmp_path):
    """Both are whole, and have the same shapes."""
    mixed = tmp_path / "ckpt-30"
    shutil.copytree(saved, mixed)
    rows = trained.get_layer("wide").get_weights()[0]
    trained.get_layer("wide").set_weights([rows + 1])
    tfps.checkpoint.save(trained, tmp_path / "later")
    trained.get_layer("wide").set_weights([rows])
    for suffix in ("index", "data-00000-of-00001"):
        shutil.copy(tmp_path / "later" / f"rows-0-of-2/part-00000.{suffix}", mixed / "rows-0-of-2")
    with pytest.raises(CheckpointError, match=r"rows-0-of-2/part-00000\.\S+ is broken or of another checkpoint"):
        tfps.checkpoint.restore(other, mixed)


def test_a_newer_or_foreign_manifest_is_named(saved, other, tmp_path):
    newer = tmp_path / "newer"
    shutil.copytree(saved, newer)
    fields = json.loads((newer / "manifest.json").read_text())
    (newer / "manifest.json").write_text(json.dumps(fields | {"version": 2}))
    with pytest.raises(CheckpointError, match=r"version 2 of the format, and this tfps reads versions up to 1"):
        tfps.checkpoint.restore(other, newer)
    (newer / "manifest.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(CheckpointError, match=r"is not the manifest of a tfps checkpoint"):
        tfps.checkpoint.restore(other, newer)
    with pytest.raises(CheckpointError, match=r"there is no checkpoint"):
        tfps.checkpoint.restore(other, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"is no checkpoint of tfps"):
        tfps.checkpoint.restore(other, tmp_path / "empty")


def test_nothing_is_overwritten(trained, saved):
    before = (saved / "manifest.json").read_bytes()
    with pytest.raises(CheckpointError, match=r"`path` must be new, because nothing is overwritten"):
        tfps.checkpoint.save(trained, saved)
    assert (saved / "manifest.json").read_bytes() == before


def test_a_full_disk_is_named_and_leaves_nothing(trained, tmp_path):
    """The file system refuses to grow a file, in the middle of it: a limit on the size of files of the servers."""
    mount = tmp_path / "small"
    mount.mkdir()
    if os.geteuid() or os.system(f"mount -t tmpfs -o size=128k tmpfs {mount} 2>/dev/null"):
        pytest.skip("this user may not mount a small file system")
    try:
        with pytest.raises(CheckpointError, match=r"cannot write \S+small/a\S*: .*[Nn]o space left on device"):
            tfps.checkpoint.save(trained, mount / "a")
        assert not list(mount.iterdir())
    finally:
        os.system(f"umount -l {mount}")


def _hold(path, held, done):
    with LocalFolder(path).lock():
        held.set()
        done.wait(60)


def test_a_second_writer_is_named(trained, tmp_path):
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held, done))
    process.start()
    try:
        assert held.wait(60)
        callback = tfps.callbacks.Checkpoint(tmp_path)
        with pytest.raises(CheckpointError, match=r"another program writes checkpoints to"):
            trained.fit(X[:40], Y[:40], batch_size=40, verbose=0, callbacks=[callback])
    finally:
        done.set()
        process.join(60)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda model: tfps.checkpoint.save(model, 3), ConfigError, "`path` must be a path or a URL. Received: 3"),
        (lambda model: tfps.checkpoint.save("x", "y"), ConfigError, "`model` must be a Keras model. Received: 'x'"),
        (lambda model: tfps.checkpoint.save(model, "/proc/no/a"), CheckpointError, "cannot write the checkpoint /proc"),
        (lambda model: tfps.checkpoint.restore(model, "a", only="x"), ConfigError, "`only` must be a list of names"),
        (
            lambda model: tfps.checkpoint.save(keras.Sequential([keras.layers.Dense(1)]), "a"),
            CheckpointError,
            "`model` must be built",
        ),
    ],
)
def test_bad_arguments_are_named(trained, call, error, message):
    with pytest.raises(error) as caught:
        call(trained)
    assert message in str(caught.value)
