"""The follower alone, with versions that the tests write: in order, nothing skipped, and each lookup of one version."""

import logging
import pathlib
import shutil
import threading
import time
import uuid

import numpy as np
import pytest

from tests.serving.exporter import Exporter, assert_has
from tfps.errors import ConfigError, ExportError, ExportGapError
from tfps.serving import Follower
from tfps.serving.versions import FULL


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    return str(tmp_path / "out") if request.param == "file" else f"memory://serving-{uuid.uuid4().hex}"


def exported(url, versions=1, **kwargs):
    """A training with some versions: a full one, then deltas."""
    one = Exporter(url, **kwargs)
    one.train(range(10))
    one.export(FULL)
    for number in range(1, versions):
        one.train([number, 20 + number])
        one.export()
    return one


def test_a_follower_has_what_each_version_had(url):
    one = Exporter(url, {"items/embeddings": 3, "users/embeddings": 1})
    follower = Follower(url)
    assert follower.update() == [] and follower.version is None and follower.freshness_s == float("inf")
    rng = np.random.default_rng(1)
    for number in range(40):
        for name in one.dims:
            # Ids of all int64; some are trained again, some go, and some come back.
            one.train(rng.choice([*range(20), -(2**63), 2**63 - 1, 10**12], rng.integers(1, 9)), name)
            one.evict(rng.choice(20, rng.integers(0, 5)), name)
        one.export(FULL if number == 0 else "delta")
        if number % 7 == 0 and number:
            one.export(FULL, beside=True)
        if rng.random() < 0.7:
            follower.update()
            assert_has(follower, one.states[follower.version])
            assert follower.version == one.versions.newest and follower.step == 10 * follower.version
    assert_has(Follower_at(url), one.states[one.versions.newest])


def Follower_at(url):  # noqa: N802
    follower = Follower(url)
    follower.update()
    return follower


def test_versions_are_read_in_order_and_each_once(url):
    one = exported(url, 4)
    follower = Follower(url)
    assert follower.update() == [1, 2, 3, 4] and follower.update() == []
    one.train([3])
    one.export()
    one.export(FULL, beside=True)
    # A follower that is in step never reads a full version.
    assert follower.update() == [5]


def test_one_that_begins_reads_the_newest_full_version_and_what_follows(url):
    one = exported(url, 3)
    one.export(FULL, beside=True)
    one.train([5])
    one.export()
    follower = Follower(url)
    assert follower.update() == [3, 4]
    assert_has(follower, one.states[4])


def test_missing_rows_are_told_and_get_what_the_caller_says(url):
    one = exported(url)
    follower = Follower_at(url)
    rows, found = follower.lookup("items", [[3, -1], [10, 2**40]], missing=[7, 8, 9])
    assert rows.shape == (2, 2, 3) and found.tolist() == [[True, False], [False, False]]
    np.testing.assert_array_equal(rows[0, 0], one.tables["items/embeddings"][3])
    assert rows[~found].tolist() == [[7, 8, 9]] * 3
    assert follower.lookup("items", [11])[0].tolist() == [[0, 0, 0]]
    assert follower.lookup("items", [])[0].shape == (0, 3)


def test_a_small_table_is_a_dense_variable_and_is_looked_up_as_any(url):
    one = Exporter(url, {})
    one.dense["small/embeddings"] = np.arange(6, dtype=np.float32).reshape(3, 2)
    one.export(FULL)
    rows, found = Follower_at(url).lookup("small", [2, 3, -1, 0])
    assert rows.tolist() == [[4, 5], [0, 0], [0, 0], [0, 1]] and found.tolist() == [True, False, False, True]


def test_a_table_is_found_by_its_layer(url):
    one = Exporter(
        url, {"a/items/embeddings": 1, "b/items/embeddings": 2, "b/users/embeddings": 3, "users/embeddings": 4}
    )
    one.export(FULL)
    follower = Follower_at(url)
    widths = {
        name: follower.lookup(name, [0])[0].shape[1] for name in ("a/items", "b/items/embeddings", "b/users", "users")
    }
    assert list(widths.values()) == [1, 2, 3, 4]
    with pytest.raises(ConfigError, match="'items'.*a/items/embeddings, b/items/embeddings"):
        follower.lookup("items", [0])


def test_freshness_is_the_age_of_the_version(url):
    one = Exporter(url)
    one.export(FULL, as_of=time.time() - 50)
    assert 50 <= Follower_at(url).freshness_s < 60


def remove(one, name):
    one.store.remove(name)


def flip(one, name, file):
    """Flips one bit in the middle of a file."""
    data = bytearray(one.store.read(f"{name}/{file}"))
    data[len(data) // 2] ^= 4
    write(one, f"{name}/{file}", bytes(data))


def write(one, path, data):
    if hasattr(one.store, "_files"):
        one.store._files.pipe_file(f"{one.store._path}/{path}", data)
    else:
        (pathlib.Path(one.store.path) / path).write_bytes(data)


FILES = ["manifest.json", "dense.npz", "rows-0-of-1/part-00001.parquet"]


@pytest.mark.parametrize("how", ["missing", "truncated", *FILES])
def test_a_version_that_cannot_be_read_is_named_and_no_row_is_lost(url, how, caplog):
    one = exported(url)
    follower, strict = Follower_at(url), Follower(url, on_gap="raise")
    strict.update()
    one.train([2, 30])
    one.export()
    if how == "missing":
        remove(one, "delta-2")
    elif how == "truncated":
        write(one, "delta-2/dense.npz", one.store.read("delta-2/dense.npz")[:-1])
    else:
        flip(one, "delta-2", how)
    one.train([3])
    one.export()
    # Nothing leads past it: both keep what they have, and say so.
    for each in (follower, strict):
        with pytest.raises(ExportGapError, match="delta-2") as caught:
            each.update()
        assert (caught.value.version, caught.value.missing) == (1, 2)
        assert_has(each, one.states[1])
    one.export(FULL, beside=True)
    with pytest.raises(ExportGapError, match="delta-2"):
        strict.update()
    with caplog.at_level(logging.WARNING, "tfps"):
        assert follower.update() == [3]
    assert "delta-2" in caplog.text and "anew from full-3" in caplog.text
    assert_has(follower, one.states[3])
    one.train([4])
    one.export()
    assert follower.update() == [4]
    # By hand, the strict one does so too.
    assert strict.resync() == [3, 4]
    assert_has(strict, one.states[4])


def test_one_that_begins_uses_an_older_full_version_where_the_newest_is_broken(url, caplog):
    one = exported(url, 3)
    one.export(FULL, beside=True)
    flip(one, "full-3", "rows-0-of-1/part-00000.parquet")
    with pytest.raises(ExportGapError, match="full-3.*checksum"):
        Follower(url, on_gap="raise").update()
    follower = Follower(url)
    assert follower.update() == [1, 2, 3] and "full-3" in caplog.text
    assert_has(follower, one.states[3])


def test_one_that_lags_behind_what_is_kept_is_told(url, caplog):
    one = exported(url)
    follower = Follower_at(url)
    for _ in range(3):
        one.train([1, 2])
        one.export()
        one.export(FULL, beside=True)
    # Version 2 was removed with the first full ones.
    assert follower.update() == [4] and "version 2" in caplog.text.replace("version 3, which follows", "version 2")
    assert_has(follower, one.states[4])


def test_a_training_that_is_started_again_is_no_gap(url, caplog):
    one = exported(url, 3)
    follower = Follower(url, on_gap="raise")
    follower.update()
    again = exported(url, 2, seed=9)
    assert again.versions.newest == 5
    assert follower.update() == [4, 5] and not caplog.records
    assert_has(follower, again.states[5])
    assert one.versions.chain_id != again.versions.chain_id


@pytest.mark.parametrize("versions", [1, 3])
def test_an_export_that_goes_back_is_told(tmp_path, versions, caplog):
    out = tmp_path / "out"
    exported(out, 3)
    follower, strict = Follower_at(out), Follower(out, on_gap="raise")
    strict.update()
    shutil.rmtree(out)
    again = exported(out, versions, seed=9)
    with pytest.raises(ExportGapError, match=f"version {versions} is of another chain.*version 3"):
        strict.update()
    assert follower.update() == list(range(1, versions + 1)) and "version 3" in caplog.text
    assert_has(follower, again.states[versions])


def test_a_list_that_goes_back_is_told(tmp_path, caplog):
    out = tmp_path / "out"
    one = exported(out)
    before = one.store.read("current.json")
    one.export()
    follower = Follower_at(out)
    # As from a backup.
    one.store.replace("current.json", before)
    assert follower.update() == [1] and "goes back from 2 to 1" in caplog.text
    assert_has(follower, one.states[1])


def test_a_broken_list_is_an_error_and_changes_nothing(url):
    one = exported(url)
    follower = Follower_at(url)
    whole = one.store.read("current.json")
    write(one, "current.json", whole[:-9])
    with pytest.raises(ExportError, match="current.json is broken"):
        follower.update()
    assert_has(follower, one.states[1])
    write(one, "current.json", whole)
    assert follower.update() == []


def test_every_flipped_byte_of_a_list_or_a_manifest_is_seen(tmp_path):
    one = exported(tmp_path)
    for path in (tmp_path / "current.json", tmp_path / "full-1" / "manifest.json"):
        whole = path.read_bytes()
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(ExportError):
                Follower(tmp_path).update()
        path.write_bytes(whole)
    assert_has(Follower_at(tmp_path), one.states[1])


def test_a_version_that_is_removed_while_it_is_read_is_no_gap(tmp_path, monkeypatch, caplog):
    one = exported(tmp_path)
    follower = Follower(tmp_path, on_gap="raise")
    real = follower._store.read

    def read(path):
        # Once, between the list and the version.
        if path == "full-1/manifest.json" and one.versions.newest == 1:
            for _ in range(3):
                one.export()
                one.export(FULL, beside=True)
        return real(path)

    monkeypatch.setattr(follower._store, "read", read)
    assert follower.update() == [4] and not caplog.records
    assert_has(follower, one.states[4])


def test_a_lookup_sees_one_version(tmp_path):
    # All elements of all rows have the number of the version: rows, growing and going ones too.
    rows, dim = 20_000, 8
    one = Exporter(tmp_path, {"items/embeddings": dim})
    number = 0

    def train(ids):
        one.tables["items/embeddings"].update(dict.fromkeys(ids, np.full(dim, number, np.float32)))
        one.changed["items/embeddings"].update(ids)

    train(range(rows))
    one.export(FULL)
    follower = Follower_at(tmp_path)
    stop, mixed, lookups = threading.Event(), [], []

    def look():
        ids = np.random.default_rng(0).permutation(rows)
        while not stop.is_set():
            found, _ = follower.lookup("items", ids)
            lookups.append(found[0, 0])
            if len(np.unique(found)) > 1:
                mixed.append(np.unique(found))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(1, 25):  # noqa: B007
            train([*range(rows), 10**6 + number])
            one.export()
            follower.update()
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not mixed and len(set(lookups)) > 5


def test_a_follower_follows_in_a_thread(url, caplog):
    one = exported(url)
    with Follower(url, poll_s=0.02) as follower:
        for _ in range(3):
            one.train([1, 50])
            number = one.export()
            wait_for(lambda number=number: follower.version == number)
        assert_has(follower, one.states[number])
        whole = one.store.read("current.json")
        write(one, "current.json", b"{")
        wait_for(lambda: follower.error is not None)
        write(one, "current.json", whole)
        wait_for(lambda: follower.error is None)
        # Told once, however often it looked.
        assert caplog.text.count("current.json is broken") == 1
    one.export()
    time.sleep(0.1)
    assert follower.version == number, "it has ended"


def wait_for(condition, limit_s=30.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited for a follower"
        time.sleep(0.005)


def test_memory_is_the_rows_and_little_more(tmp_path):
    rows, dim = 50_000, 16
    one = Exporter(tmp_path, {"items/embeddings": dim})
    one.train(range(rows))
    one.export(FULL)
    follower = Follower_at(tmp_path)
    assert follower.bytes <= 1.3 * rows * dim * 4
    one.train(range(rows, rows + 2000))
    one.export()
    follower.update()
    assert follower.bytes <= 1.4 * (rows + 2000) * dim * 4


def test_wrong_use_is_told(url):
    with pytest.raises(ExportError, match="no version was read yet"):
        Follower(url).lookup("items", [1])
    exported(url)
    follower = Follower_at(url)
    with pytest.raises(ConfigError, match="`table`.*'users'.*items/embeddings"):
        follower.lookup("users", [1])
    with pytest.raises(ConfigError, match="`ids` must be integers"):
        follower.lookup("items", [1.5])
    with pytest.raises(ConfigError, match="`ids`.*Received: 'a'"):
        follower.lookup("items", "a")
    with pytest.raises(ConfigError, match="`missing`.*width 3"):
        follower.lookup("items", [1], missing=[1, 2])


def test_a_protocol_that_nobody_knows_is_told():
    with pytest.raises(ConfigError, match="`url`.*nowhere://x"):
        Follower("nowhere://x")
