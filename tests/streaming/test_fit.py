"""`tfps.streaming.fit` on the cluster of the tests: windows of files, each record once, test then train."""

import json
import logging
import shutil
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.streaming.counting import ROWS, counts, expected, make_model, parse, write, write_many
from tfps.errors import CheckpointError, ConfigError, InputFileError, SourceError
from tfps.inputs.epoch import Epoch
from tfps.streaming import Files, WindowCheckpoint, fit


@pytest.fixture(scope="module")
def shared(strategy):
    """One model for all tests that do not mind: its graphs are traced once."""
    return make_model(strategy)


@pytest.fixture
def model(shared):
    shared.set_weights([np.zeros((ROWS, 1))])
    shared.optimizer.learning_rate = 1.0
    return shared


def files(folder, **arguments):
    return Files(folder / "*.csv", arguments.pop("parse", parse), settle_s=0, poll_s=0.05, **arguments)


def test_two_workers_split_a_window_and_each_record_counts_once(model, tmp_path, no_young, monkeypatch):
    ids = write_many(tmp_path / "in", 12, 50)
    hosts, start = set(), Epoch.start
    monkeypatch.setattr(
        Epoch, "start", lambda epoch, shard, host, kind: hosts.add(host) or start(epoch, shard, host, kind)
    )
    logs = fit(model, files(tmp_path / "in"), window=4, checkpoint=tmp_path / "run", windows=3)
    assert counts(model) == expected(ids)
    assert [one["examples"] for one in logs] == [200, 200, 200]
    assert hosts == {0, 1}


def test_a_window_is_tested_before_it_is_learned(model, tmp_path):
    for i in range(3):
        write(tmp_path / "in" / f"{i}.csv", [7] * 16)
    logs = fit(model, files(tmp_path / "in"), window=1, checkpoint=tmp_path / "run", windows=3)
    # The loss of a batch of 8 is -8 times the row; the row is the number of records before the window.
    assert [one["test_loss"] for one in logs] == [0.0, -8 * 16.0, -8 * 32.0]
    assert all(one["loss"] < one["test_loss"] for one in logs)


def test_without_the_test_a_window_is_read_once(model, tmp_path):
    ids = write_many(tmp_path / "in", 1, 20)
    (log,) = fit(model, files(tmp_path / "in"), window=1, checkpoint=tmp_path / "run", windows=1, test=False)
    assert not [name for name in log if name.startswith("test_")]
    assert counts(model) == expected(ids)


def test_files_that_appear_while_it_runs_are_trained(model, tmp_path):
    ids = write_many(tmp_path / "in", 2, 30)
    draw = np.random.default_rng(1)

    def produce():
        for i in range(2, 6):
            time.sleep(0.3)
            ids.extend(write(tmp_path / "in" / f"{i:03}.csv", draw.integers(0, ROWS, 30)))

    thread = threading.Thread(target=produce)
    thread.start()
    logs = fit(model, files(tmp_path / "in"), window=2, checkpoint=tmp_path / "run", windows=3)
    thread.join(30)
    assert len(logs) == 3 and counts(model) == expected(ids)


def test_the_same_call_goes_on_with_the_next_window(model, strategy, tmp_path):
    ids = write_many(tmp_path / "in", 4, 30)
    fit(model, files(tmp_path / "in"), window=1, checkpoint=tmp_path / "run", windows=2)
    other = make_model(strategy)
    logs = fit(other, files(tmp_path / "in"), window=1, checkpoint=tmp_path / "run", windows=4)
    assert len(logs) == 2 and counts(other) == expected(ids)
    # Nothing is left to do, and the model of another program would be the saved one.
    assert fit(other, files(tmp_path / "in"), window=1, checkpoint=tmp_path / "run", windows=4) == []


def test_a_broken_checkpoint_sends_it_to_the_window_after_the_one_before(model, strategy, tmp_path):
    ids = write_many(tmp_path / "in", 5, 30)
    fit(model, files(tmp_path / "in"), window=1, checkpoint=tmp_path / "run", windows=3)
    latest = tmp_path / "run" / (tmp_path / "run" / "latest").read_text().strip()
    broken = next(latest.glob("rows-*/part-*.data-*"))
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 1
    broken.write_bytes(content)
    other = make_model(strategy)
    logs = fit(other, files(tmp_path / "in"), window=1, checkpoint=tmp_path / "run", windows=5)
    assert len(logs) == 3 and counts(other) == expected(ids)


def test_learning_rates_follow_the_window(model, tmp_path):
    for i in range(3):
        write(tmp_path / "in" / f"{i}.csv", [i] * 8)
    rates = {0: 1.0, 1: 3.0, 2: 10.0}
    fit(
        model,
        files(tmp_path / "in"),
        window=1,
        checkpoint=tmp_path / "run",
        windows=3,
        learning_rate=lambda window: rates[window.number],
    )
    assert counts(model)[:3] == [8, 24, 80]
    with pytest.raises(ConfigError, match=r"`learning_rate` of window 0 must be a number"):
        bad = {"window": 1, "checkpoint": tmp_path / "other", "learning_rate": lambda window: "fast"}
        fit(model, files(tmp_path / "in"), windows=1, **bad)


class Recorder(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_begin(self, logs=None):
        self.seen.append("train begin")

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(f"begin {epoch}")

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(f"end {epoch}" + " tested" * ("test_loss" in logs))

    def on_train_end(self, logs=None):
        self.seen.append("train end")


def test_callbacks_see_one_training_whose_epochs_are_windows(model, tmp_path):
    write_many(tmp_path / "in", 3, 20)
    recorder, saved = Recorder(), []

    def end(window, logs):
        # Before it is saved.
        saved.append((window.number, window.count, sorted(logs), list((tmp_path / "run").glob("ckpt-*"))))

    arguments = {"window": 1, "checkpoint": tmp_path / "run", "callbacks": [recorder], "on_window_end": end}
    fit(model, files(tmp_path / "in"), windows=2, **arguments)
    assert recorder.seen == ["train begin", "begin 0", "end 0 tested", "begin 1", "end 1 tested", "train end"]
    assert [one[:3] for one in saved] == [(0, 1, ["loss", "test_loss"]), (1, 1, ["loss", "test_loss"])]
    assert [len(one[3]) for one in saved] == [0, 1]


def test_a_callback_ends_the_training_after_its_window(model, tmp_path):
    write_many(tmp_path / "in", 5, 20)

    def stop(window, logs):
        model.stop_training = window.number == 1

    logs = fit(model, files(tmp_path / "in"), window=1, checkpoint=tmp_path / "run", on_window_end=stop)
    assert len(logs) == 2
    assert len(list((tmp_path / "run").glob("ckpt-*"))) == 2


class StopAt(keras.callbacks.Callback):
    def __init__(self, epoch, batch):
        super().__init__()
        self.at, self.epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            self.model.stop_training = True


@pytest.mark.parametrize("every_steps", [None, 2])
def test_a_window_that_is_broken_off_is_not_saved_and_comes_again(model, strategy, tmp_path, every_steps, caplog):
    ids = write_many(tmp_path / "in", 3, 40)
    checkpoint = WindowCheckpoint(tmp_path / "run", every_steps=every_steps)
    ended = []
    arguments = {"window": 1, "on_window_end": lambda window, logs: ended.append(window.number)}
    logs = fit(model, files(tmp_path / "in"), checkpoint=checkpoint, callbacks=[StopAt(1, 3)], **arguments)
    assert len(logs) == 1 and ended == [0] and "was broken off by a callback" in caplog.text
    other = make_model(strategy)
    fit(other, files(tmp_path / "in"), checkpoint=tmp_path / "run", windows=3, **arguments)
    assert counts(other) == expected(ids)


def test_checkpoints_within_a_window_and_in_the_background(model, strategy, tmp_path):
    ids = write_many(tmp_path / "in", 4, 80)
    checkpoint = WindowCheckpoint(tmp_path / "run", every_steps=4, background=True, full_every=3, keep=None)
    fit(model, files(tmp_path / "in"), window=2, checkpoint=checkpoint, windows=2)
    assert counts(model) == expected(ids)
    # The end is saved, whatever was left out meanwhile.
    assert (tmp_path / "run" / "latest").read_text().strip() == f"ckpt-{int(model.optimizer.iterations)}"
    other = make_model(strategy)
    write(tmp_path / "in" / "x.csv", [3])
    write(tmp_path / "in" / "y.csv", [3])
    fit(other, files(tmp_path / "in"), window=2, checkpoint=tmp_path / "run", windows=3)
    assert counts(other) == expected([*ids, 3, 3])


def test_deltas_go_on_from_window_to_window(model, tmp_path):
    write_many(tmp_path / "in", 4, 20)
    checkpoint = WindowCheckpoint(tmp_path / "run", full_every=3, keep=None)
    fit(model, files(tmp_path / "in"), window=1, checkpoint=checkpoint, windows=4)
    names = sorted((path.name for path in (tmp_path / "run").glob("ckpt-*")), key=lambda name: int(name[5:]))
    bases = [json.loads((tmp_path / "run" / name / "manifest.json").read_text())["base"] for name in names]
    assert bases == [None, names[0], names[1], None]


def test_checkpoints_are_numbered_by_batches_in_every_mode(strategy, tmp_path, no_young):
    # A global step of two batches counts once for the optimizer.
    ids = write_many(tmp_path / "in", 8, 64)
    with strategy.scope():
        table = keras.layers.Embedding(ROWS, 1, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((), dtype="int64"), table])
        loss = lambda y, rows: -keras.ops.sum(rows)  # noqa: E731
        model.compile(tfps.optimizers.Sync(keras.optimizers.SGD(2.0)), loss)
    fit(model, files(tmp_path / "in"), window=2, checkpoint=tmp_path / "run", windows=4)
    assert counts(model) == expected(ids)
    assert (tmp_path / "run" / "latest").read_text().strip() == "ckpt-64"


def test_a_window_that_takes_longer_than_it_lasts_is_said(model, tmp_path, caplog):
    caplog.set_level(logging.INFO, "tfps")
    write(tmp_path / "in" / "20261130000000.csv", [1] * 8)
    source = Files(tmp_path / "in" / "%Y%m%d%H%M%S.csv", parse, settle_s=0)

    def slow(window, logs):
        time.sleep(1.1)

    arguments = {"window": "1s", "checkpoint": tmp_path / "run", "on_window_end": slow}
    (log,) = fit(model, source, windows=1, **arguments)
    assert "took" in caplog.text and "lasts 1 s: training falls behind its stream" in caplog.text
    assert "window 0 from 2026-11-30 00:00:00 UTC: 1 files, 8 examples" in caplog.text
    assert log["lag_s"] > 0 and log["seconds"] > 1


def test_a_model_of_one_process_is_trained_the_same_way(tmp_path):
    ids = write_many(tmp_path / "in", 4, 30)
    model = make_model()
    fit(model, files(tmp_path / "in"), window=1, checkpoint=tmp_path / "run", windows=2)
    other = make_model()
    logs = fit(other, files(tmp_path / "in"), window=1, checkpoint=tmp_path / "run", windows=4)
    assert len(logs) == 2 and counts(other) == expected(ids)


def test_workers_copy_files_of_a_store_themselves(model, tmp_path, caplog, no_young):
    ids = write_many(tmp_path / "files", 6, 30)
    archive = shutil.make_archive(str(tmp_path / "in"), "zip", root_dir=tmp_path / "files")
    caplog.set_level(logging.INFO, "tfps")
    source = Planner([[f"zip://{i:03}.csv::{archive}" for i in range(first, first + 3)] for first in (0, 3)], archive)
    fit(model, source, window=3, checkpoint=tmp_path / "run", windows=2)
    assert counts(model) == expected(ids)
    assert "the chief reads" not in caplog.text


class Planner(Files):
    """Files of an archive, which fsspec reads as it reads a store, in fixed windows."""

    def __init__(self, windows, archive):
        super().__init__(f"zip://*.csv::{archive}", parse, settle_s=0)
        self.windows = windows

    def check(self, rule):
        pass

    def plan(self, position, rule, now_s):
        number = position or 0
        parts = tuple(self.windows[number])
        return tfps.streaming.Planned(parts, len(parts), None, None, number + 1)


def test_a_store_of_the_chief_alone_feeds_the_workers(model, tmp_path):
    import fsspec

    store, ids = fsspec.filesystem("memory"), []
    for i in range(4):
        store.pipe_file(f"/fed/{i}.csv", f"{i}\n{i}\n".encode())
        ids += [i, i]
    source = Files("memory://fed/*.csv", parse, settle_s=0)
    fit(model, source, window=2, checkpoint=tmp_path / "run", windows=2)
    store.rm("/fed", recursive=True)
    assert counts(model) == expected(ids)


def test_a_folder_that_vanishes_ends_the_training_with_its_name(model, strategy, tmp_path):
    ids = write_many(tmp_path / "in", 2, 20)

    def vanish(window, logs):
        (tmp_path / "in").rename(tmp_path / "away")

    arguments = {"window": 1, "checkpoint": tmp_path / "run"}
    with pytest.raises(SourceError, match=rf"folder '{tmp_path}/in' of the stream cannot be read"):
        fit(model, files(tmp_path / "in", patience_s=0.2), on_window_end=vanish, **arguments)
    (tmp_path / "away").rename(tmp_path / "in")
    other = make_model(strategy)
    fit(other, files(tmp_path / "in"), windows=2, **arguments)
    assert counts(other) == expected(ids)


def test_a_file_that_vanishes_within_a_window_is_named_and_nothing_is_lost(model, strategy, tmp_path):
    ids = write_many(tmp_path / "in", 2, 20)
    source = files(tmp_path / "in")
    plan = source.plan

    def plan_and_remove(*arguments):
        planned = plan(*arguments)
        if "001.csv" in planned.parts[0]:
            (tmp_path / "in" / "001.csv").rename(tmp_path / "001.csv")
        return planned

    source.plan = plan_and_remove
    arguments = {"window": 1, "checkpoint": tmp_path / "run", "windows": 2}
    with pytest.raises(InputFileError, match=r"001\.csv"):
        fit(model, source, **arguments)
    (tmp_path / "001.csv").rename(tmp_path / "in" / "001.csv")
    other = make_model(strategy)
    fit(other, files(tmp_path / "in"), **arguments)
    assert counts(other) == expected(ids)


def test_windows_leave_nothing_behind(model, tmp_path):
    """A training that never ends must not trace, and not grow, with each window."""
    write_many(tmp_path / "in", 8, 20)
    traced = []

    def note(window, logs):
        traced.append((model.train_function, model.test_function, len(threading.enumerate())))

    fit(model, files(tmp_path / "in"), window=1, checkpoint=tmp_path / "run", windows=8, on_window_end=note)
    assert len({(id(train), id(test)) for train, test, _ in traced[1:]}) == 1
    assert traced[-1][2] <= traced[1][2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": "1x"}, "`window` must be a length"),
        ({"windows": 0}, "`windows` must be an integer of at least 1"),
        ({"test": "no"}, "`test` must be True or False"),
        ({"learning_rate": 0.1}, "`learning_rate` must be a function of a Window"),
        ({"on_window_end": 1}, "`on_window_end` must be a function of a Window"),
        ({"callbacks": [1]}, "`callbacks` must be a list of Keras callbacks"),
        ({"checkpoint": 3}, "`checkpoint` must be a path or a URL"),
        ({"source": "in/*.csv"}, "`source` must be a tfps.streaming.Files"),
        ({"model": 1}, "`model` must be a Keras model"),
        ({"verbose": "loud"}, "`verbose` must be one of 'auto'"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_trained(model, tmp_path, arguments, message):
    (tmp_path / "in").mkdir()
    given = {"model": model, "source": files(tmp_path / "in"), "window": 1, "checkpoint": tmp_path / "run"} | arguments
    with pytest.raises(ConfigError, match=message):
        fit(given.pop("model"), given.pop("source"), **given)
    assert not (tmp_path / "run").exists()


def test_what_restores_by_itself_is_no_callback_here(model, tmp_path):
    (tmp_path / "in").mkdir()
    arguments = {"window": 1, "checkpoint": tmp_path / "run"}
    with pytest.raises(ConfigError, match=r"must not restore.*Received: Checkpoint"):
        fit(model, files(tmp_path / "in"), callbacks=[tfps.callbacks.Checkpoint(tmp_path / "other")], **arguments)


def test_checkpoints_of_another_training_are_refused(model, tmp_path):
    write_many(tmp_path / "in", 1, 20)
    data = tf.data.Dataset.from_tensor_slices((np.arange(16), np.zeros(16, "float32"))).batch(8)
    model.fit(data, verbose=0, callbacks=[tfps.callbacks.Checkpoint(tmp_path / "run")])
    with pytest.raises(CheckpointError, match=r"were not written by tfps\.streaming\.fit"):
        fit(model, files(tmp_path / "in"), window=1, checkpoint=tmp_path / "run", windows=1)


def test_an_uncompiled_model_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ConfigError, match=r"`model` must be compiled"):
        fit(keras.Sequential([keras.Input((1,))]), files(tmp_path / "in"), window=1, checkpoint=tmp_path / "run")
