"""Workers read files of stores themselves: each example once an epoch, by file and by range, with losses and faults."""

import gzip
import json
import os
import pathlib

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf

from tests import programs
from tests.stores import s3
from tests.stores.flaky import Flaky
from tests.streaming.counting import ROWS, counts, expected, make_model
from tfps.data import Hash, files
from tfps.errors import SourceError
from tfps.inputs.epoch import Epoch

ROOT = pathlib.Path(__file__).parents[2]
CRITEO = {"label": "int32", **{f"i{k}": 0 for k in range(13)}, **{f"c{k}": "" for k in range(26)}}


BOTH = [("s3", "file"), ("s3", "range"), ("webhdfs", "range")]


@pytest.fixture(scope="module")
def shared(strategy):
    """One model for all tests: its graphs are traced once."""
    return make_model(strategy)


@pytest.fixture
def model(shared, no_young):
    shared.set_weights([np.zeros((ROWS, 1))])
    return shared


@pytest.fixture
def readers(monkeypatch):
    """The epochs that began, as pairs of the worker and whether shards were parts of files."""
    found, start = set(), Epoch.start

    def noted(epoch, shard, host, kind):
        found.add((host, epoch.source.shards.by_file))
        return start(epoch, shard, host, kind)

    monkeypatch.setattr(Epoch, "start", noted)
    return found


def as_examples(dataset, name):
    """Pairs of a row of the model and a label, from numbers or strings in a column."""

    def pair(element):
        value = element[name]
        return (tf.strings.to_hash_bucket_fast(value, ROWS) if value.dtype == tf.string else value), 0.0

    return dataset.map(pair)


@pytest.mark.parametrize(("store", "split"), [*BOTH, ("webhdfs", "file"), ("file", "range")], indirect=["store"])
def test_criteo_logs_from_each_store(model, store, data, readers, split):
    lines = (data / "criteo_1tb_day0_10k/day_0_first10000.tsv").read_bytes().splitlines(keepends=True)
    for i in range(4):
        store.write(f"day/{i}.tsv", b"".join(lines[i::4]))
    dataset = files(
        f"{store.url}/day/*.tsv",
        "tsv",
        columns=CRITEO,
        batch_size=200,
        split=split,
        range_bytes=100_000,
        options=store.options,
    )
    model.fit(as_examples(dataset, "c0"), epochs=2, verbose=0)
    first = [line.split(b"\t")[14] for line in lines]
    assert counts(model) == expected(np.repeat(tf.strings.to_hash_bucket_fast(first, ROWS), 2))
    # Each worker its own parts of the input.
    assert readers == {(0, True), (1, True)}


def test_criteo_logs_are_hashed_and_shuffled_on_the_workers(model, data, readers):
    log = data / "criteo_1tb_day0_10k/day_0_first10000.tsv"
    columns = {"label": "float32", **{f"i{k}": 0.0 for k in range(13)}, **{f"c{k}": Hash(ROWS) for k in range(26)}}
    dataset = files(
        log,
        "tsv",
        columns=columns,
        label="label",
        stack={"ids": ["c0", "c1"], "numbers": [f"i{k}" for k in range(13)]},
        batch_size=200,
        shuffle=1000,
        shuffle_group=4,
        range_bytes=200_000,
    )
    model.fit(dataset.map(lambda features, label: (features["ids"][:, 0], 0.0 * label)), epochs=2, verbose=0)
    first = [line.split(b"\t")[14] for line in log.read_bytes().splitlines()]
    assert counts(model) == expected(np.repeat(tf.strings.to_hash_bucket_fast(first, ROWS), 2))
    assert readers == {(0, True), (1, True)}


@pytest.mark.parametrize(("store", "split"), BOTH, indirect=["store"])
def test_parquet_from_each_store(model, store, readers, split):
    ids = np.random.default_rng(3).integers(0, ROWS, 3000)
    for i in range(3):
        sink = pyarrow.BufferOutputStream()
        table = pyarrow.table({"id": ids[i::3], "other": ids[i::3].astype(str)})
        pyarrow.parquet.write_table(table, sink, row_group_size=90)
        store.write(f"{i}.parquet", sink.getvalue().to_pybytes())
    dataset = files(
        f"{store.url}/*.parquet",
        "parquet",
        columns=["id"],
        batch_size=50,
        split=split,
        range_bytes=3000,
        options=store.options,
    )
    model.fit(as_examples(dataset, "id"), verbose=0)
    assert counts(model) == expected(ids) and readers == {(0, True), (1, True)}


def write_numbers(store, count, each, ending="tsv"):
    ids = np.random.default_rng(5).integers(0, ROWS, (count, each))
    for i, own in enumerate(ids):
        data = "".join(f"{one}\n" for one in own).encode()
        store.write(f"{i}.{ending}", gzip.compress(data) if ending.endswith("gz") else data)
    return ids.reshape(-1)


def test_steps_per_epoch_take_the_first_batches_of_all_workers(model, bucket, readers):
    # Batches are those of one process then, so each worker reads all files and keeps every second batch.
    ids = write_numbers(bucket, 2, 400)
    dataset = files(
        f"{bucket.url}/*.tsv", "tsv", columns={"id": 0}, batch_size=20, read_ahead=1, options=bucket.options
    )
    model.fit(as_examples(dataset, "id"), steps_per_epoch=30, verbose=0)
    assert counts(model) == expected(ids[:600]) and readers == {(0, False), (1, False)}


def test_compressed_files_and_shuffles(model, bucket):
    ids = write_numbers(bucket, 5, 200, "tsv.gz")
    dataset = files(
        f"{bucket.url}/*.gz",
        "tsv",
        columns={"id": 0},
        batch_size=16,
        shuffle=64,
        range_bytes=256,
        options=bucket.options,
    )
    model.fit(as_examples(dataset, "id"), epochs=2, verbose=0)
    assert counts(model) == expected(np.repeat(ids, 2))


def test_files_of_this_process_alone_are_fed(model, readers):
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/fed/a.tsv", b"".join(b"%d\n" % (i % ROWS) for i in range(1000)))
    dataset = files("memory://fed/*.tsv", "tsv", columns={"id": 0}, batch_size=16)
    model.fit(as_examples(dataset, "id"), verbose=0)
    assert counts(model) == expected(np.arange(1000) % ROWS)


def test_a_wrong_line_on_a_worker_is_an_error_of_ours(model, bucket):
    bucket.write("a.tsv", b"1\t2\n" * 500 + b"1\n" + b"1\t2\n" * 500)
    dataset = files(f"{bucket.url}/a.tsv", "tsv", columns={"id": 0, "n": 0}, batch_size=8, options=bucket.options)
    with pytest.raises(SourceError, match=r"/a.tsv' is broken at line 501: it has 1 fields instead of 2"):
        model.fit(as_examples(dataset, "id"), verbose=0)


PROGRAM = """
import json, os, signal, sys, keras, numpy as np, tfps
from tests.conftest import all_train
from tests.data.test_workers import as_examples, files
from tests.streaming.counting import counts, make_model

class Kill(keras.callbacks.Callback):
    # In the middle of the second epoch.
    seen = 0

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        if self.seen == 60:
            os.kill(next(t for t in cluster.tasks if t.order.job == "worker" and t.order.index == victim).pid, 9)

class Patch:
    setattr = staticmethod(setattr)

settings = json.loads(sys.argv[1])
all_train(Patch)
cluster = tfps.LocalCluster(num_ps=1, num_workers=3)
strategy = tfps.ParameterServerStrategy(cluster, dense_tables_bytes=0)
for victim, split in enumerate(("file", "range")):
    model = make_model(strategy)
    data = files(settings["url"], "tsv", columns={"id": 0}, batch_size=20, split=split, range_bytes=200,
                 options=settings["options"])
    model.fit(as_examples(data, "id"), epochs=3, verbose=0, callbacks=[Kill()])
    print(json.dumps(counts(model)), flush=True)
strategy.close()
"""


@pytest.mark.slow
def test_a_worker_that_is_lost_and_a_store_that_breaks(moto, tmp_path):
    """Every request may get an error, half an answer or a closed connection, while a worker is killed."""
    ids = np.random.default_rng(6).integers(0, ROWS, (8, 100))
    fs = fsspec.filesystem("s3", **moto.options)
    for i, own in enumerate(ids):
        fs.pipe_file(f"bucket/lost/{i}.tsv", "".join(f"{one}\n" for one in own).encode())
    proxy = Flaky(behind=moto.port)
    faults = np.random.default_rng(7).choice([*[None] * 8, 500, 503, "cut", "drop"], 2000).tolist()
    proxy.faults["*"] = faults
    settings = {"url": "s3://bucket/lost/*.tsv", "options": s3.options(proxy.url.rpartition(":")[2])}
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"} | {"PYTHONPATH": str(ROOT)}
    done = programs.run(["-c", PROGRAM, json.dumps(settings)], env=environment, timeout=300)
    proxy.close()
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("the other workers continue without worker") == 2, done.stderr[-3000:]
    assert len(faults) < 1900
    for line in done.stdout.splitlines():
        assert json.loads(line) == expected(np.repeat(ids.reshape(-1), 3))
    assert len(done.stdout.splitlines()) == 2
