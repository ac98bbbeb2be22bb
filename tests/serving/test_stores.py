"""Where versions are: complete or not there, whatever dies when."""

import os
import pathlib
import signal
import subprocess
import sys
import time
import uuid

import numpy as np
import pytest

from tests.serving.exporter import Exporter, assert_has
from tfps.errors import ExportError
from tfps.serving import Follower
from tfps.serving.stores import open_store
from tfps.serving.versions import CURRENT, FULL

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path):
    return open_store(str(tmp_path / "out") if request.param == "file" else f"memory://stores-{uuid.uuid4().hex}")


def test_a_version_is_there_completely_or_not(store):
    assert store.names() == []
    draft = store.begin("full-1")
    draft.write("rows-0-of-1/part-0", b"one")
    draft.finish()
    assert store.names() == ["full-1"] and store.read("full-1/rows-0-of-1/part-0") == b"one"
    left = store.begin("full-2")
    left.write("part-0", b"two")
    left.discard()
    assert store.names() == ["full-1"]
    # What a writer that died has left does not get into the next one.
    store.begin("full-3").write("old", b"old")
    draft = store.begin("full-3")
    draft.write("new", b"new")
    draft.finish()
    assert store.read("full-3/new") == b"new"
    with pytest.raises(FileNotFoundError):
        store.read("full-3/old")
    store.remove("full-1")
    store.remove("full-1")
    assert store.names() == ["full-3"]


def test_a_small_file_is_replaced(store):
    with pytest.raises(FileNotFoundError):
        store.read(CURRENT)
    for data in (b"one", b"two"):
        store.replace(CURRENT, data)
        assert store.read(CURRENT) == data


def test_two_writers_are_told(tmp_path):
    one, two = open_store(tmp_path), open_store(tmp_path)
    with one.lock(), pytest.raises(ExportError, match="another program exports"), two.lock():
        pass
    with two.lock():
        pass


def test_two_trainings_are_told(store):
    one = Exporter(store.path)
    one.export(FULL)
    two = Exporter(store.path)
    two.export(FULL)
    with pytest.raises(ExportError, match="another program has written"):
        one.export()
    follower = Follower(store.path)
    follower.update()
    assert_has(follower, two.states[2])


def test_a_store_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ExportError, match="cannot write .*file"):
        open_store(tmp_path / "file" / "out").replace(CURRENT, b"")


def test_old_versions_are_removed_and_others_stay(store):
    one = Exporter(store.path)
    store.begin("delta-900.partial" if hasattr(store, "_files") else "delta-900").write("left", b"")
    store.replace("notes", b"mine")
    again = Exporter(store.path)
    assert again.export(FULL) > 900, "no number comes twice"
    for _ in range(5):
        again.train([1])
        again.export()
        again.export()
        again.export(FULL, beside=True)
    newest = again.versions.newest
    wanted = {f"delta-{newest}", f"delta-{newest - 1}", f"full-{newest}", f"full-{newest - 2}"}
    assert set(store.names()) == wanted
    assert store.read("notes") == b"mine" and one.versions.chain_id != again.versions.chain_id


PROGRAM = """
import itertools, sys
from tests.serving.exporter import Exporter
one = Exporter(sys.argv[1], {"items/embeddings": 2})
one.train(range(50))
one.export("full")
for turn in itertools.count():
    # Each row says how often it was trained.
    for i in range(50):
        one.tables["items/embeddings"][i] = one.tables["items/embeddings"][i] * 0 + turn
        one.changed["items/embeddings"].add(i)
    one.export()
    if turn % 40 == 39:
        one.export("full", beside=True)
"""


@pytest.mark.parametrize("seed", range(2))
def test_a_writer_that_is_killed_leaves_whole_versions(tmp_path, seed):
    rng = np.random.default_rng(seed)
    follower = Follower(tmp_path, on_gap="raise")
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        try:
            before, limit = follower.version or 0, time.monotonic() + 120
            while (follower.version or 0) < before + 4 and time.monotonic() < limit:
                follower.update()
            assert (follower.version or 0) >= before + 4
            time.sleep(rng.random() * 0.05)
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait(60)
        follower.update()
        rows, found = follower.lookup("items", np.arange(50))
        assert found.all() and len(np.unique(rows)) == 1
        # One that begins now finds the same.
        other = Follower(tmp_path, on_gap="raise")
        other.update()
        np.testing.assert_array_equal(other.lookup("items", np.arange(50))[0], rows)
