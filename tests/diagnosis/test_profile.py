"""`Profile` on real clusters: its files, and slow stages that are planted."""

import gzip
import json
import logging
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.diagnosis.capture import Capture
from tfps.errors import ClusterError, ConfigError, ExportError, UnsupportedError


def model_of(strategy, width=8):
    with strategy.scope():
        model = keras.Sequential([keras.layers.Embedding(1000, width), keras.layers.Flatten(), keras.layers.Dense(1)])
        model.compile(optimizer="sgd", loss="mse")
    return model


def slow(x, y):
    # No Python runs on a worker. The sort takes some ten milliseconds.
    drawn = tf.random.stateless_uniform([300_000], [1, tf.cast(x[0, 0], tf.int32)])
    return x, y + 0.0 * tf.sort(drawn)[0]


def dataset():
    return tf.data.Dataset.from_tensors((np.arange(256).reshape(64, 4) % 1000, np.ones((64, 1), np.float32))).repeat()


def profiled(model, folder, data, steps=(60, 120), epochs=3, of_epoch=60, **more):
    profile = tfps.callbacks.Profile(folder, steps, **more)
    model.fit(data, steps_per_epoch=of_epoch, epochs=epochs, verbose=0, callbacks=[profile])
    return profile


@pytest.fixture(scope="module")
def plain(strategy, tmp_path_factory):
    """The profile of a plain model, and its folder."""
    folder = tmp_path_factory.mktemp("profile")
    return profiled(model_of(strategy), folder, dataset()), folder


def test_the_stages_of_each_task_add_up_to_its_step(plain):
    timeline = plain[0].timeline
    workers, servers = timeline.of_job("worker"), timeline.of_job("ps")
    assert workers and len(servers) == 2
    for task in (*workers, *servers):
        assert task.recorded_ms / task.steps == pytest.approx(task.step_ms, rel=1e-6)
    assert sum(task.steps for task in workers) == pytest.approx(servers[0].steps)
    assert 0 < timeline.first_step <= 60 and timeline.last_step >= 120
    busy = {stage for task in workers for stage, ms in task.ms.items() if ms > 0}
    assert busy >= {"input", "ids", "rows", "compute", "push", "exchange"}
    assert {stage for task in servers for stage, ms in task.ms.items() if ms > 0} >= {"rows", "push", "idle"}
    assert any("ps 0" in task.waited_for_ms and "ps 1" in task.waited_for_ms for task in workers)


def test_the_trace_is_chrome_trace_events(plain):
    (path,) = plain[1].glob("timeline/*/trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X", "s", "f"}
    names = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert {name.split(" (")[0] for name in names} == {"worker 0", "worker 1", "ps 0", "ps 1"}
    for event in events:
        assert isinstance(event["pid"], int) and (event["name"].startswith("process_") or isinstance(event["tid"], int))
        if event["ph"] == "X":
            assert event["dur"] >= 0
    # An arrow has two ends, and goes forward in time: all tasks are on one clock.
    begins = {event["id"]: event["ts"] for event in events if event["ph"] == "s"}
    ends = {event["id"]: event["ts"] for event in events if event["ph"] == "f"}
    assert begins.keys() == ends.keys() and len(begins) > 20
    assert all(begins[number] <= ends[number] for number in begins)
    stages = [event for event in events if event.get("cat") == "stage"]
    assert sum(event["dur"] for event in stages if event["pid"] == 1) / 1e3 == pytest.approx(
        plain[0].timeline.tasks[0].recorded_ms, rel=1e-3
    )


def test_the_folder_has_the_files_of_tensorboard(plain):
    names = {path.name for path in plain[1].glob("plugins/profile/*/*")}
    assert names == {"worker-0.xplane.pb", "worker-1.xplane.pb", "ps-0.xplane.pb", "ps-1.xplane.pb"}
    assert not list(plain[1].rglob("*.partial"))
    (table,) = plain[1].glob("timeline/*/table.txt")
    assert "ps 0" in table.read_text() and "compute" in table.read_text()


def test_a_slow_input_is_seen(strategy, tmp_path, no_young):
    profile = profiled(model_of(strategy), tmp_path, dataset().map(slow), steps=(30, 60), epochs=1, of_epoch=80)
    ms = profile.timeline.mean_ms("worker")
    assert ms["input"] > 0.5 * sum(ms.values()), ms
    assert "waits for its batch" in profile.advice


def test_a_chief_that_feeds_slowly_is_seen(strategy, tmp_path, no_young):
    def batches():
        for _ in range(60):
            time.sleep(0.02)
            yield np.arange(256).reshape(64, 4), np.ones((64, 1), np.float32)

    data = tf.data.Dataset.from_generator(
        batches, output_signature=(tf.TensorSpec([64, 4], tf.int64), tf.TensorSpec([64, 1], tf.float32))
    )
    profile = profiled(model_of(strategy), tmp_path, data, steps=(20, 40), epochs=1)
    ms = profile.timeline.mean_ms("worker")
    assert profile.timeline.fed and ms["idle"] > 0.5 * sum(ms.values()), ms
    assert "the chief reads the batches" in profile.advice


def test_what_is_no_profile_is_said(strategy, tmp_path, caplog):
    model = model_of(strategy)
    with caplog.at_level(logging.WARNING, "tfps"):
        profile = profiled(model, tmp_path, dataset(), steps=(10_000, 10_001), epochs=1)
    assert profile.timeline is None
    assert "`fit` ended after 60 steps, and `steps` begins at 10000" in caplog.text


def test_training_goes_on_if_tasks_cannot_be_recorded(strategy, tmp_path, caplog, monkeypatch):
    def fail(*_):
        raise ClusterError("planted")

    monkeypatch.setattr(Capture, "_call", fail)
    model = model_of(strategy)
    with caplog.at_level(logging.WARNING, "tfps"):
        profile = profiled(model, tmp_path, dataset(), steps=(10, 20), epochs=1)
    assert profile.timeline is None and int(model.optimizer.iterations.numpy()) == 60
    assert "nothing was profiled, and training went on: planted" in caplog.text


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ((0, 5), r"`steps\[0\]` must be an integer of at least 1. Received: 0"),
        ((5, 4), r"`steps` must be \(first, last\) with first <= last. Received: \(5, 4\)."),
        ((5, 0), r"`steps\[1\]` must be an integer of at least 1. Received: 0"),
        (7, "`steps` must be the numbers of the first and the last step"),
        ((1, 2, 3), "`steps` must be the numbers of the first and the last step"),
        ("12", "`steps` must be the numbers of the first and the last step"),
    ],
)
def test_steps_that_are_none(tmp_path, steps, text):
    with pytest.raises(ConfigError, match=text):
        tfps.callbacks.Profile(tmp_path, steps)


def test_bad_arguments_are_refused_before_anything_trains(strategy, tmp_path):
    model = model_of(strategy)
    with pytest.raises(ConfigError, match=r"`workers\[0\]` must be an integer of at least 0. Received: -1"):
        tfps.callbacks.Profile(tmp_path, workers=[-1])
    with pytest.raises(ConfigError, match="`most_s` must be a number above 0. Received: 0"):
        tfps.callbacks.Profile(tmp_path, most_s=0)
    with pytest.raises(ConfigError, match="`workers` has 5, and the cluster has 2 workers. Valid: 0 to 1."):
        profiled(model, tmp_path, dataset(), workers=[5])
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ExportError, match="file"):
        profiled(model, blocked / "folder", dataset())
    with pytest.raises(ExportError, match="/proc/x"):
        profiled(model, "/proc/x", dataset())
    assert model.optimizer.iterations.numpy() == 0


def test_a_path_of_bytes_is_refused():
    class Path:
        def __fspath__(self):
            return b"/x"

    for make, name in ((tfps.callbacks.Profile, "url"), (tfps.callbacks.TensorBoard, "log_dir")):
        with pytest.raises(ConfigError, match=f"`{name}` must be a path or a URL. Received: .*Path"):
            make(Path())
    with pytest.raises(ConfigError, match="`path` must be a path or a URL. Received: .*Path"):
        tfps.callbacks.Checkpoint(Path())


class Fails(keras.callbacks.Callback):
    """Fails at a step."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 >= self.step:
            raise RuntimeError("planted")


def test_a_fit_that_fails_ends_its_recording(strategy, tmp_path, no_young, capsys):
    model = model_of(strategy)
    calls, call = [], Capture._call

    def note(capture, name, inputs):
        found = call(capture, name, inputs)
        calls.append(name)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Capture, "_call", note)
        with pytest.raises(RuntimeError, match="planted"):
            model.fit(
                dataset(),
                steps_per_epoch=400,
                verbose=0,
                callbacks=[tfps.callbacks.Profile(tmp_path, (20, 400), most_s=60), Fails(200)],
            )
        assert calls == ["start", "drop"]
    assert not list(tmp_path.glob("timeline/*/*")) and capsys.readouterr().out == ""
    # The next one can record, and prints.
    profile = profiled(model, tmp_path, dataset(), steps=(60, 100), epochs=2)
    shown = capsys.readouterr().out
    assert (
        profile.timeline is not None and shown.startswith("Where the time of a step goes") and profile.advice in shown
    )


def test_one_profile_at_a_time(strategy, tmp_path, no_young, caplog):
    profiles = [tfps.callbacks.Profile(tmp_path, (60, 100)) for _ in range(2)]
    with caplog.at_level(logging.WARNING, "tfps"):
        model_of(strategy).fit(dataset(), steps_per_epoch=150, verbose=0, callbacks=profiles)
    assert [profile.timeline is None for profile in profiles].count(True) == 1
    assert "nothing was profiled, and training went on: another profile runs in this program." in caplog.text


def test_a_young_model_is_said_to_be_one(strategy, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "tfps"):
        profiled(model_of(strategy), tmp_path, dataset(), steps=(30, 40), epochs=1)
    assert "shows a young model, which one worker trains alone" in caplog.text
    assert "Valid: `steps` after the first 512 or more" in caplog.text


def test_other_strategies_are_named(tmp_path):
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(loss="mse")
    with pytest.raises(UnsupportedError, match="`Profile` needs a ParameterServerStrategy"):
        model.fit(np.ones((4, 2)), np.ones(4), verbose=0, callbacks=[tfps.callbacks.Profile(tmp_path)])
