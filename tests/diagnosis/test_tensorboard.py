"""`TensorBoard`: what it writes, and what a real browser shows of it."""

import os
import pathlib
import re
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.diagnosis.row_norms import sample_norms
from tfps.errors import ConfigError, LibraryError, UnsupportedError
from tfps.monitoring.scalars import scalars
from tfps.monitoring.snapshot import CheckpointState, ServerState, Snapshot, TableState, TaskState

CHROMIUM = pathlib.Path("/usr/bin/chromium")
STEPS = 120


@pytest.fixture(scope="module")
def written(strategy, tmp_path_factory):
    """A folder in which both callbacks called TensorBoard, and `Profile`, have written."""
    folder = tmp_path_factory.mktemp("board")
    with strategy.scope():
        ids = keras.Input((4,), dtype="int64")
        tables = (keras.layers.Embedding(1000, 8, name="fixed"), tfps.layers.DynamicEmbedding(8, name="growing"))
        joined = keras.layers.Concatenate()([keras.layers.Flatten()(table(ids)) for table in tables])
        model = keras.Model(ids, keras.layers.Dense(1)(joined))
        model.compile(optimizer="sgd", loss="mse", metrics=["mae"])
    data = tf.data.Dataset.from_tensors((np.arange(256).reshape(64, 4), np.ones((64, 1), np.float32))).repeat()
    callbacks = [
        tfps.callbacks.TensorBoard(folder, every_s=1, norms_every_s=1),
        keras.callbacks.TensorBoard(folder),
        tfps.callbacks.Profile(folder, (60, 120)),
    ]
    before = strategy.record.counts()
    model.fit(data, steps_per_epoch=STEPS, verbose=0, callbacks=callbacks)
    now = strategy.record.counts()
    assert now.steps - before.steps == STEPS and now.unique_rows - before.unique_rows == 512 * STEPS
    return folder


def events_of(folder):
    """The events in a folder: {tag: [(step, value)]}, as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tfps"))
    read.Reload()
    found = {tag: [(one.step, one.value) for one in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    return found, read


def test_the_numbers_are_those_of_the_job(written):
    found, read = events_of(written)
    groups = {tag.split("/")[0] for tag in found}
    assert groups >= {"metrics", "job", "examples_per_s", "staleness", "cpu_cores", "bytes_per_s", "balance"}
    assert groups >= {"ids_per_step", "growing_rows", "row_norm_mean", "row_norm_largest"}
    # The last point is of the end of `fit`.
    assert found["job/losses_of_tasks"][-1] == (STEPS, 0.0)
    assert {tag for tag in found if tag.startswith("metrics/")} >= {"metrics/loss", "metrics/mae"}
    ids = [points[-1][1] for tag, points in found.items() if tag.startswith("ids_per_step/") and "fixed" in tag]
    assert ids == [256.0]
    # Each of the two tables looks up the same 256 ids once. A rate may begin with steps of models before.
    rows = [value for _, value in found["job/unique_rows_per_step"]]
    assert rows and 0 < rows[-1] < 512 * 1.01
    assert sum(found[f"balance/stored_share ps {server}"][-1][1] for server in (0, 1)) == pytest.approx(1.0)
    assert read.Tags()["images"] == ["placement"]
    histograms = read.Tags()["histograms"]
    assert len(histograms) >= 2 and all(tag.startswith("row_norms/") for tag in histograms)
    assert any("growing" in tag for tag in histograms)
    (picture,) = [read.Images("placement")[-1]]
    assert picture.encoded_image_string.startswith(b"\x89PNG") and picture.width > 500


@pytest.mark.slow
def test_a_browser_shows_charts_pictures_and_the_profile(written):
    if not CHROMIUM.exists():
        pytest.skip(f"needs a browser: {CHROMIUM}")
    playwright = pytest.importorskip("playwright.sync_api")
    pytest.importorskip("tensorboard_plugin_profile")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(written), "--port", "0", "--load_fast=false"]
    board = subprocess.Popen([*command, "--host", "127.0.0.1"], stderr=subprocess.PIPE, text=True)
    try:
        url = next(found[0] for line in board.stderr if (found := re.search(r"http://\S+", line)))
        # What it says from now on is of no interest, but it must not fill the pipe.
        threading.Thread(target=board.stderr.read, daemon=True).start()
        with playwright.sync_playwright() as engine:
            browser = engine.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1500, "height": 1000})
            page.set_default_timeout(60_000)
            look_at_charts(page, url)
            look_at_pictures(page, url)
            look_at_the_profile(page, url, written)
            browser.close()
    finally:
        board.kill()
        board.wait(10)


def look_at_charts(page, url):
    page.goto(f"{url}#timeseries")
    page.get_by_text("examples_per_s", exact=True).first.wait_for()
    # The runs of both callbacks, and a chart that has been drawn.
    for run in ("tfps", "train"):
        page.get_by_text(run, exact=True).first.wait_for()
    page.get_by_role("combobox", name="Filter tags (regex)").fill("metrics/loss")
    page.locator("scalar-card line-chart svg").first.wait_for()
    assert "loss" in page.locator("scalar-card").first.inner_text()


def look_at_pictures(page, url):
    page.goto(f"{url}#images")
    image = page.locator("tf-image-loader img").first
    image.wait_for()
    page.wait_for_function("image => image.complete && image.naturalWidth > 500", arg=image.element_handle())


def look_at_the_profile(page, url, folder):
    (run,) = os.listdir(folder / "plugins" / "profile")
    page.goto(f"{url}#profile")
    frame = page.frame_locator("iframe").first
    frame.get_by_text(run).first.wait_for()
    # What the profiler draws, from the files of all tasks: the stages that were added to each.
    names = {
        path.name.removesuffix(".xplane.pb") for path in (folder / "plugins" / "profile" / run).glob("*-*.xplane.pb")
    }
    assert names == {"worker-0", "worker-1", "ps-0", "ps-1"}
    for name in sorted(names):
        query = f"{url}data/plugin/profile/data?run={run}&tag=trace_viewer&host={name}"
        trace = page.request.get(query, timeout=60_000).text()
        # One worker alone may train a young model; the other is idle.
        assert "tfps stages" in trace and ("exchange" in trace or name.startswith("worker")), name


def test_the_scalars_of_a_snapshot():
    tasks = (
        TaskState("worker", 0, steps_per_s=2.0, examples_per_s=64.0, staleness=3, cpu_cores=0.5, resident_bytes=7),
        TaskState("ps", 0, received_bytes_per_s=10.0, sent_bytes_per_s=30.0),
    )
    table = TableState("t", 9, 4, 36, ids_per_step=5.0, grows=True, admitted=3, refused=1, evicted=2)
    servers = (ServerState(0, 30, 0.75, 0.5), ServerState(1, 10, 0.25, 0.5))
    checkpoint = CheckpointState(5, at=90.0, seconds=1.5, url="u")
    shown = scalars(
        Snapshot(
            *(100.0, 0.0, "job", 1, "h", "v"),
            metrics={"loss": 0.5, "auc": None, "geo_conflicts": 0.1},
            drift={"geo_conflicts": 0.1},
            tasks=tasks,
            tables=(table,),
            servers=servers,
            checkpoint=checkpoint,
            losses_count=2,
        )
    )
    expected = {
        "metrics/loss": 0.5,
        "geo/conflicts": 0.1,
        "job/losses_of_tasks": 2.0,
        "job/checkpoint_age_s": 10.0,
        "examples_per_s/worker 0": 64.0,
        "staleness/worker 0": 3.0,
        "bytes_per_s/ps 0 received": 10.0,
        "bytes_per_s/ps 0 sent": 30.0,
        "balance/stored_share largest to mean": 1.5,
        "balance/traffic_share largest to mean": 1.0,
        "growing_rows/t": 9.0,
        "admission_rate/t": 0.75,
        "evicted/t": 2.0,
    }
    assert {tag: shown.get(tag) for tag in expected} == expected
    # What is not finite is, and what is not known is not.
    assert np.isnan(shown["metrics/auc"])
    assert "cpu_cores/ps 0" not in shown and "staleness/ps 0" not in shown


class Fails(keras.callbacks.Callback):
    """Fails when `fit` begins, or after an epoch."""

    def __init__(self, when):
        super().__init__()
        setattr(self, when, self.fail)

    def fail(self, *args, **kwargs):
        raise RuntimeError("planted")


def all_writers_end():
    """Whether the writing threads end soon. A busy machine may take longer than `fit` waits for one."""
    for thread in threading.enumerate():
        if thread.name == "tfps-tensorboard":
            thread.join(60)
    return not any(thread.name == "tfps-tensorboard" for thread in threading.enumerate())


def test_it_ends_where_fit_fails_and_what_is_not_finite_is_written(strategy, tmp_path):
    with strategy.scope():
        layer = keras.layers.Embedding(100, 4, name="lost")
        model = keras.Sequential(
            [keras.Input((2,), dtype="int64"), layer, keras.layers.Flatten(), keras.layers.Dense(1)]
        )
        model.compile(optimizer="sgd", loss="mse")
    values = np.ones((100, 4), np.float32)
    values[:30] = np.nan
    layer.set_weights([values])
    callback = tfps.callbacks.TensorBoard(tmp_path, every_s=1, norms_every_s=0.1)
    data = np.zeros((64, 2), np.int64), np.ones(64, np.float32)
    for when in ("on_train_begin", "on_epoch_end"):
        with pytest.raises(RuntimeError, match="planted"):
            model.fit(*data, batch_size=8, verbose=0, callbacks=[callback, Fails(when)])
        assert all_writers_end()
    files = sorted((tmp_path / "tfps").iterdir())
    sizes = [file.stat().st_size for file in files]
    model.fit(*data, batch_size=8, verbose=0, callbacks=[callback])
    assert all_writers_end() and [file.stat().st_size for file in files] == sizes
    found, _ = events_of(tmp_path)
    # The steps of the model, also those of the `fit` that has failed.
    steps = [step for step, _ in found["metrics/loss"]]
    assert steps == sorted(steps) and {8, 16} <= set(steps)
    assert all(np.isnan(value) for step, value in found["metrics/loss"] if step >= 8)
    (tag,) = [tag for tag in found if tag.startswith("rows_not_finite/") and "lost" in tag]
    assert found[tag][-1] == (16, 30.0)
    (tag,) = [tag for tag in found if tag.startswith("row_norm_mean/") and "lost" in tag]
    assert found[tag][-1] == (16, 2.0)


def test_the_norms_of_a_sample_are_those_of_rows(strategy):
    with strategy.scope():
        small, large = keras.layers.Embedding(50, 8), keras.layers.Embedding(20_000, 8)
        for layer in (small, large):
            layer.build()
    draws = np.random.default_rng(0)
    (table, other) = (layer.embeddings._value for layer in (small, large))
    whole = np.linalg.norm(np.asarray(small.embeddings), axis=1)
    assert np.allclose(np.sort(sample_norms(table, draws)), np.sort(whole))
    drawn = sample_norms(other, draws, most=100)
    norms = np.linalg.norm(np.asarray(large.embeddings), axis=1)
    assert drawn.shape == (100,)
    assert np.abs(drawn[:, None] - norms[None, :]).min(axis=1).max() < 1e-6


def test_bad_arguments_are_named(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="`every_s` must be a number of at least 1. Received: 0.5"):
        tfps.callbacks.TensorBoard(tmp_path, every_s=0.5)
    with pytest.raises(ConfigError, match="`norms_every_s` must be a number above 0, or None for no norms"):
        tfps.callbacks.TensorBoard(tmp_path, norms_every_s=-1)
    with pytest.raises(ConfigError, match="`log_dir` must be a path or a URL. Received: ''"):
        tfps.callbacks.TensorBoard("")
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer", None)
    with pytest.raises(LibraryError, match=r"needs TensorBoard, not found: pip install 'tfps\[tensorboard\]'"):
        tfps.callbacks.TensorBoard(tmp_path)


def test_a_folder_that_cannot_be_written_and_other_strategies(strategy, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(loss="mse")
    with pytest.raises(ConfigError, match="`log_dir` must be a folder that can be written. Received: .*file"):
        model.fit(np.ones((4, 2)), np.ones(4), verbose=0, callbacks=[tfps.callbacks.TensorBoard(blocked / "log")])
    plain = keras.Sequential([keras.layers.Dense(1)])
    plain.compile(loss="mse")
    with pytest.raises(UnsupportedError, match="needs a ParameterServerStrategy"):
        plain.fit(np.ones((4, 2)), np.ones(4), verbose=0, callbacks=[tfps.callbacks.TensorBoard(tmp_path)])
