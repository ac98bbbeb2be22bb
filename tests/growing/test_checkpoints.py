"""Checkpoints of tables that grow while a model trains: deltas, and evicted rows."""

import json

import keras
import numpy as np
import pytest
from pyarrow import parquet

import tfps
from tests.growing.models import counter, counts_of, fixed, growing, model_of, rows_of
from tfps.cli.checkpoint import main
from tfps.errors import CheckpointMismatchError


def data(ids, batch_size=4):
    import tensorflow as tf

    ids = np.asarray(ids).reshape(-1, 2)
    return tf.data.Dataset.from_tensor_slices((ids, np.zeros(len(ids)))).batch(batch_size)


def rows(model):
    return {i: -row[0] for i, row in rows_of(model.get_layer("counts")).items()}


def restored(strategy, folder, **growth):
    model = counter(strategy, **growth)
    tfps.checkpoint.restore(model, folder)
    return rows(model)


def test_a_delta_has_the_rows_that_came_since(strategy, tmp_path):
    model = counter(strategy)
    rng = np.random.default_rng(0)
    ids = rng.integers(-(2**62), 2**62, 800)
    ids[400:500] = ids[:100]
    saving = tfps.callbacks.Checkpoint(tmp_path, every_steps=20, keep=10, full_every=3)
    model.fit(data(ids), shuffle=False, verbose=0, callbacks=[saving])
    assert rows(model) == counts_of(ids)
    assert restored(strategy, tmp_path) == counts_of(ids)
    manifests = [json.loads((path / "manifest.json").read_text()) for path in sorted(tmp_path.glob("ckpt-*"))]
    saved = {one["step"]: sum(part["rows"] for part in one["tables"][0]["parts"]) for one in manifests}
    # Of each three one is complete; a delta has the 160 ids of 20 batches, but for those that came before.
    assert saved == {20: 160, 40: 160, 60: 160, 80: 540, 100: 160}


def test_evicted_rows_do_not_come_back(strategy, tmp_path):
    growth = {"max_rows": 200, "eviction": tfps.eviction.LeastRecent()}
    model = counter(strategy, **growth)
    ids = np.random.default_rng(1).integers(0, 2**62, 3000)
    saving = tfps.callbacks.Checkpoint(tmp_path, every_steps=50, keep=10, full_every=4)
    model.fit(data(ids), shuffle=False, verbose=0, callbacks=[saving])
    expected = rows(model)
    assert len(expected) <= 200
    assert restored(strategy, tmp_path, **growth) == expected


def test_the_command_lists_and_exports_them(strategy, tmp_path, capsys):
    model = counter(strategy, keras.optimizers.Adam(0.1))
    ids = np.random.default_rng(2).integers(-(2**63), 2**63 - 1, 200)
    model.fit(data(ids), verbose=0)
    tfps.checkpoint.save(model, tmp_path / "run" / "ckpt-50")
    assert main(["ls", "--json", str(tmp_path / "run" / "ckpt-50")]) == 0
    (table,) = json.loads(capsys.readouterr().out)[0]["tables"]
    assert table["rows"] == table["saved_rows"] == 200
    arguments = ["export", str(tmp_path / "run" / "ckpt-50"), "--tables", "counts", "--slots"]
    assert main([*arguments, "--format", "parquet", "--to", str(tmp_path / "a.parquet")]) == 0
    found = parquet.read_table(tmp_path / "a.parquet").to_pydict()
    rows = rows_of(model.get_layer("counts"))
    assert dict(zip(found["id"], found["embedding"], strict=True)) == {i: row.tolist() for i, row in rows.items()}
    assert all(one[0] > 0 for one in found["velocity"]) and {"momentum", "use"} <= set(found)
    assert main([*arguments, "--format", "safetensors", "--to", str(tmp_path / "a.safetensors")]) == 1
    assert "grows: its ids are no row numbers" in capsys.readouterr().err


def test_a_fixed_table_does_not_take_the_rows_of_one_that_grows(strategy, tmp_path):
    tfps.checkpoint.save(model_of(strategy, growing, "sgd", expected_rows=60), tmp_path / "a")
    with pytest.raises(CheckpointMismatchError, match="grows there"):
        tfps.checkpoint.restore(model_of(strategy, fixed, "sgd"), tmp_path / "a", only=["wide"])


def test_the_ages_of_rows_are_saved(one_worker, tmp_path):
    growth = {"eviction": tfps.eviction.Unseen(steps=400)}
    model = counter(one_worker, **growth)
    model.fit(data(np.arange(40)), shuffle=False, verbose=0)
    # Both servers make 300 updates, so the ids from 4 on are 300 updates old.
    model.fit(data(np.tile([0, 1, 2, 3], 300), 2), shuffle=False, verbose=0)
    assert len(rows(model)) == 40
    tfps.checkpoint.save(model, tmp_path / "a")
    again = counter(one_worker, **growth)
    tfps.checkpoint.restore(again, tmp_path / "a")
    # After 250 more they are beyond the 400, if their age was saved, and far from it if not.
    again.fit(data(np.tile([0, 1, 2, 3], 250), 2), shuffle=False, verbose=0)
    again.get_layer("counts").evict()
    assert set(rows(again)) == {0, 1, 2, 3}
