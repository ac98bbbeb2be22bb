"""The snapshots of a real job: what was trained is what they count, and each task is read."""

import gc
import os
import threading
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.monitoring.process import ProcessReader, read_all
from tfps.monitoring.record import JobRecord
from tfps.monitoring.runtime_folder import find_sockets
from tfps.ops.growing_rows import GrowthCounts
from tfps.strategy import job_tables, task_readings
from tfps.strategy.job_reader import JobReader, read_metrics
from tfps.strategy.job_tables import TableReader
from tfps.strategy.monitor import Monitor
from tfps.strategy.task_readings import TaskReadings

ALL = {("chief", 0), ("ps", 0), ("ps", 1), ("worker", 0), ("worker", 1)}


@pytest.fixture
def record(strategy, monkeypatch):
    """A record of this test alone: the strategy is that of all tests."""
    record = JobRecord()
    monkeypatch.setattr(strategy, "record", record)
    return record


def make_model(strategy, optimizer="adagrad", layer=None):
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((2,), dtype="int64"),
                layer or keras.layers.Embedding(300, 8),
                keras.layers.Flatten(),
                keras.layers.Dense(1),
            ]
        )
        model.compile(optimizer=optimizer, loss="mse", metrics=["mae"])
    return model


def make_data(batches, size, last):
    """Batches of a size, and one that has fewer examples."""
    examples = (batches - 1) * size + last
    ids = np.random.default_rng(0).integers(0, 300, (examples, 2))
    return tf.data.Dataset.from_tensor_slices((ids, np.ones((examples, 1), "float32"))).batch(size), examples


def by_task(snapshot):
    return {(task.job, task.index): task for task in snapshot.tasks}


OPTIMIZERS = {
    "asynchronous": lambda: keras.optimizers.Adagrad(0.1),
    "geo": lambda: tfps.optimizers.Geo(keras.optimizers.Adagrad(0.1), push_every=4),
    "synchronous": lambda: tfps.optimizers.Sync(keras.optimizers.Adagrad(0.1)),
}


@pytest.mark.parametrize("mode", [*list(OPTIMIZERS)[:2], pytest.param("synchronous", marks=pytest.mark.slow)])
def test_steps_and_examples_are_those_that_were_trained(strategy, record, no_young, mode):
    model, (data, examples) = make_model(strategy, OPTIMIZERS[mode]()), make_data(21, 8, 3)
    model.fit(data, epochs=2, verbose=0)
    counts = record.counts()
    assert (counts.steps, counts.examples) == (42, 2 * examples)
    # The twin: what each worker has done adds up to it, and both have trained.
    assert sum(one.steps for one in counts.workers.values()) == 42 and set(counts.workers) == {0, 1}
    assert sum(one.examples for one in counts.workers.values()) == 2 * examples
    assert (counts.mode, counts.epoch, counts.epochs, counts.epoch_step) == (mode, 1, 2, 21)
    assert counts.phase == "idle"
    # The twin: each row that a batch has counts once.
    assert counts.unique_rows == 2 * sum(len(np.unique(batch)) for batch, _ in data.as_numpy_iterator())
    assert counts.unique_rows == sum(one.unique_rows for one in counts.workers.values())
    (name,) = counts.ids_per_step
    assert counts.ids_per_step[name] == 16
    assert read_metrics(counts.logs)["mae"] == pytest.approx(model.history.history["mae"][-1], rel=1e-5)


def test_fed_batches_and_single_ones_are_counted(strategy, record):
    model = make_model(strategy)

    def batches():
        for size in (4, 4, 4, 2):
            yield np.zeros((size, 2), "int64"), np.zeros((size, 1), "float32")

    model.fit(batches(), verbose=0)
    assert (record.counts().steps, record.counts().examples) == (4, 14)
    model.train_on_batch(np.zeros((5, 2), "int64"), np.zeros((5, 1), "float32"))
    data, examples = make_data(5, 8, 3)
    model.evaluate(data, verbose=0)
    counts = record.counts()
    assert (counts.steps, counts.examples, counts.test_steps, counts.test_examples) == (5, 19, 5, examples)


@pytest.mark.slow
def test_windows_that_a_model_trains_as_a_whole_are_counted(strategy, record):
    pairs = np.random.default_rng(0).integers(0, 50, (130, 2))
    with strategy.scope():
        model = tfps.models.SkipGram(50, 4, negatives=2)
        model.compile(optimizer=tfps.optimizers.Geo(keras.optimizers.SGD(0.1), push_every=4))
    model.fit(tf.data.Dataset.from_tensor_slices((pairs[:, 0], pairs[:, 1])).batch(10), verbose=0)
    assert (record.counts().steps, record.counts().examples) == (13, 130)


def test_epochs_begin_where_fit_begins(strategy, record):
    model, (data, _) = make_model(strategy), make_data(4, 8, 8)
    model.fit(data, initial_epoch=3, epochs=5, verbose=0)
    counts = record.counts()
    assert (counts.epoch, counts.epochs, counts.epochs_begun, counts.steps_per_epoch) == (4, 5, 2, 4)


def test_a_snapshot_of_a_job_that_trains(strategy, record, monkeypatch):
    model, (data, _) = make_model(strategy), make_data(40, 8, 8)
    reader, before = JobReader(strategy), TaskReadings(strategy).read(strategy)
    found = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            time.sleep(0.4)
            found.append(reader.read())

    model.fit(data, epochs=3, verbose=0, callbacks=[Look()])
    last = found[-1]
    assert last.phase == "train" and last.steps == 120 and last.steps_per_s > 0 and last.examples_per_s > 0
    assert last.pid == os.getpid() and set(last.metrics) == {"loss", "mae"}
    tasks = by_task(last)
    assert set(tasks) == ALL and all(task.status == "up" for task in tasks.values())
    pids = {(task.order.job, task.order.index): task.pid for task in strategy.cluster.tasks}
    assert {key: task.pid for key, task in tasks.items() if key[0] != "chief"} == pids
    assert all(task.resident_bytes > 10**7 and task.cpu_cores >= 0 for task in tasks.values())
    assert sum(task.steps for task in last.tasks_of("worker")) == 120
    table = next(table for table in last.tables if table.row_bytes_per_s)
    assert (table.rows, table.row_bytes, table.bytes, table.ids_per_step) == (300, 32, 300 * 64, 16)
    assert table.servers == (0, 1) and not table.grows
    assert sum(server.stored_share for server in last.servers) == pytest.approx(1)
    # Rows of 32 bytes: some of 120 batches come from each server, and go back as gradients.
    after = TaskReadings(strategy).read(strategy)
    for index in range(2 if before["ps", 0].sent_bytes is not None else 0):
        assert after["ps", index].sent_bytes - before["ps", index].sent_bytes > 20_000
        assert after["ps", index].received_bytes - before["ps", index].received_bytes > 20_000


def test_other_machines_read_what_this_one_reads(strategy):
    spec = strategy.cluster.spec
    remote = task_readings._RemoteTasks(strategy, spec)
    there = remote.read(frozenset())
    pids = {(task.order.job, task.order.index): task.pid for task in strategy.cluster.tasks}
    assert set(there) == set(pids)
    here = dict(zip(pids, read_all([ProcessReader(pid) for pid in pids.values()]), strict=True))
    for key, reading in there.items():
        assert reading.pid == pids[key] and reading.host == here[key].host and reading.cores == here[key].cores
        assert reading.cpu_s <= here[key].cpu_s < reading.cpu_s + 5
        assert abs(reading.resident_bytes - here[key].resident_bytes) < 10**8
    # A worker that is lost is not asked.
    assert remote.read(frozenset({1}))["worker", 1] is None
    remote._pool.close()


def test_a_task_that_does_not_answer_delays_no_snapshot(strategy, monkeypatch):
    remote = task_readings._RemoteTasks(strategy, strategy.cluster.spec)
    monkeypatch.setattr(task_readings, "_LIMIT_S", 0.3)
    ask, blocked = remote._ask, threading.Event()

    def hang(number):
        if number == 2:
            blocked.wait(20)
        ask(number)

    monkeypatch.setattr(remote, "_ask", hang)
    try:
        for _ in range(3):
            began = time.monotonic()
            found = remote.read(frozenset())
            assert time.monotonic() - began < 2
            assert found["worker", 0] is None and found["ps", 0] is not None
        # It is asked once, however many snapshots there were.
        assert remote._asked == {("worker", 0)}
    finally:
        blocked.set()
    deadline = time.monotonic() + 10
    while remote._asked and time.monotonic() < deadline:
        time.sleep(0.01)
    monkeypatch.setattr(task_readings, "_LIMIT_S", 5.0)
    assert remote.read(frozenset())["worker", 0] is not None
    remote._pool.close()


def test_a_table_that_grows(strategy, record, monkeypatch):
    monkeypatch.setattr(job_tables, "_COUNTS_EVERY_S", 0.0)
    model, (data, _) = make_model(strategy, layer=tfps.layers.DynamicEmbedding(8)), make_data(20, 8, 8)
    model.fit(data, epochs=1, verbose=0)
    ids = len(np.unique(np.concatenate([batch.numpy() for batch, _ in data])))
    reader, name = JobReader(strategy), model.layers[0].weights[0]._value.name
    deadline, table = time.monotonic() + 20, None
    while (table is None or table.admitted is None) and time.monotonic() < deadline:
        time.sleep(0.05)
        snapshot = reader.read()
        table = next((one for one in snapshot.tables if one.name == name), None)
    assert table.grows and (table.rows, table.admitted, table.refused, table.evicted) == (ids, ids, 0, 0)
    assert table.bytes == model.layers[0].weights[0]._value.counts().bytes


def test_counts_of_a_table_do_not_fall_when_its_server_is_replaced():
    def counts(**fields):
        return GrowthCounts(**{**dict.fromkeys(GrowthCounts._fields, 0), **fields})

    reader, table = TableReader(), types.SimpleNamespace(key="t", stores=[None, None])
    reader.note(("t", 0), counts(admitted=100, refused=10, evicted=5))
    reader.note(("t", 1), counts(admitted=50))
    assert reader._flow(table) == (150, 10, 5)
    # The server of shard 0 was replaced twice; the other went on.
    for admitted, total in ((0, 150), (30, 180), (20, 200), (25, 205)):
        reader.note(("t", 0), counts(admitted=admitted))
        assert reader._flow(table) == (total, 10, 5)
    reader.note(("t", 1), counts(admitted=60))
    assert reader._flow(table) == (215, 10, 5)


def test_tables_of_models_that_are_gone_are_not_shown(strategy, record):
    model = make_model(strategy)
    name = model.layers[0].weights[0]._value.name

    def shown():
        return [table.name for table in JobReader(strategy).read().tables]

    assert name in shown()
    del model
    # A thread that has just read the table may hold it for a moment more.
    limit = time.monotonic() + 30
    while name in shown() and time.monotonic() < limit:
        gc.collect()
        time.sleep(0.1)
    assert name not in shown()


def test_a_monitor_ends_with_its_strategy(strategy):
    def sockets():
        return [path for pid, path in find_sockets() if pid == os.getpid()]

    before = sockets()
    monitor = Monitor(strategy)
    assert len(sockets()) == len(before) + 1
    with monitor.subscribe() as watching:
        assert by_task(watching.next(20)).keys() == ALL
        assert monitor.latest() is not None
    monitor.close()
    assert sockets() == before
    # One that nobody closes is collected.
    dropped = Monitor(strategy)
    assert len(sockets()) == len(before) + 1
    del dropped
    gc.collect()
    deadline = time.monotonic() + 10
    while sockets() != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sockets() == before


def test_a_strategy_that_has_lost_a_server_is_over(strategy, monkeypatch):
    reader = JobReader(strategy)
    assert not reader.has_ended
    with monkeypatch.context() as patch:
        patch.setattr(strategy.connection, "_why_ended", "ps 0 ended")
        assert reader.has_ended
    # Not the strategy itself: its own monitor, which other tests use, would end for good.
    monitor = Monitor(strategy)
    with monitor.subscribe() as watching:
        watching.next(20)
        monkeypatch.setattr(monitor._ways, "_reader", types.SimpleNamespace(has_ended=True, read=reader.read))
        with pytest.raises(tfps.errors.ClusterTimeoutError, match="its strategy has ended"):
            watching.next(20)
    monitor.close()


def test_a_reader_keeps_no_strategy_alive(strategy):
    reader = JobReader(strategy)
    gone = types.SimpleNamespace(connection=types.SimpleNamespace(ended=True))
    reader._strategy = lambda: gone
    with pytest.raises(tfps.errors.ClusterError, match="the strategy of the job has ended"):
        reader.read()
    reader._strategy = lambda: None
    with pytest.raises(tfps.errors.ClusterError, match="the strategy of the job has ended"):
        reader.read()


def test_logs_that_are_one_number():
    logs = {"loss": tf.constant(0.5), "n": 3, "b": np.float64(1e300), "nan": float("nan"), "row": np.zeros(3), "s": "x"}
    assert read_metrics(logs) == {"loss": 0.5, "n": 3.0, "b": 1e300, "nan": None}
