"""Steps are written beside training: what is written, what a limit and a slow or broken disk leave out."""

import json
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tfps.debug import worker
from tfps.debug.folder import open_folder
from tfps.debug.reading import DumpReader
from tfps.debug.step_file import (
    ACTIVATION,
    FORMATS,
    PARAMETER,
    ROW_GRADIENT,
    ROWS,
    Entry,
    decode,
    encode,
    make_values,
)
from tfps.debug.worker import Costs, DumpSettings, StepWriter
from tfps.errors import DumpError

ROOT = pathlib.Path(__file__).parents[2]
ENTRIES = [Entry("a/b", PARAMETER, "kernel"), Entry("a", ROWS, "embeddings", True), Entry("a", ROW_GRADIENT, "e", True)]
HEADER = json.dumps({"format": "tfps-dump", "version": 1, "layers": ["a", "a/b"]})


def arrays_of(rng):
    ids = rng.integers(-5, 5, 20)
    # A row is the same wherever its id is.
    rows = np.stack([ids, ids**2], 1).astype("float32")
    return [rng.normal(size=(3, 4)).astype("float32"), ids, rows, ids[::-1], rng.normal(size=(20, 2))]


def settings(path, limit=10**9, file_format="npz"):
    return DumpSettings("key", str(path), file_format, limit, HEADER)


@pytest.mark.parametrize("file_format", FORMATS)
def test_what_is_written_is_read(tmp_path, file_format):
    arrays = arrays_of(np.random.default_rng(3))
    writer = StepWriter(settings(tmp_path, file_format=file_format))
    writer.put(2, 17, ENTRIES, arrays)
    costs = writer.drain(30)
    dump = DumpReader(tmp_path)
    files = [file for file in (tmp_path / "worker-00002").iterdir()]
    assert dump.steps == [(17, 2)] and costs.steps == 1 and costs.bytes == sum(file.stat().st_size for file in files)
    kernel, rows, gradient = dump.values(17, 2)
    np.testing.assert_array_equal(kernel.values, arrays[0])
    assert kernel.values.dtype == np.float32 and gradient.values.dtype == np.float64
    # The slow twin: each id once, its row, and the sum of its gradients.
    for number, one in enumerate(rows.ids.tolist()):
        assert rows.values[number].tolist() == [one, one**2]
        np.testing.assert_allclose(gradient.values[number], arrays[4][arrays[3] == one].sum(0), rtol=1e-12)
    assert rows.ids.tolist() == gradient.ids.tolist() == sorted(set(arrays[1].tolist()))
    entry = dump.index(17, 2)["entries"][0]
    assert entry["norm"] == pytest.approx(np.linalg.norm(arrays[0])) and entry["shape"] == [3, 4]


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_type_survives(file_format):
    given = {
        "half": np.array([1.5, np.nan, np.inf], "float16"),
        "double": np.array(0.1),
        "long": np.array([[2**62 + 1, -(2**63)]]),
        "bool": np.array([True, False]),
        "empty": np.zeros((0, 3), "float32"),
    }
    values = make_values([Entry("x", ACTIVATION, name) for name in given], list(given.values()))
    found = decode(encode(values, file_format), file_format, "path")
    for name, array in given.items():
        read = found[f"activation:x:{name}"]
        assert read.dtype == array.dtype and read.shape == array.shape
        np.testing.assert_array_equal(read, array)
    assert values[0].describe()["not_finite"] == 2 and values[0].describe()["norm"] == 1.5


def bytes_in(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_limit_is_of_all_files_and_nothing_comes_after_it(tmp_path, file_format):
    whole = StepWriter(settings(tmp_path / "whole", file_format=file_format))
    for step in range(3):
        whole.put(0, step, ENTRIES, arrays_of(np.random.default_rng(step)))
    whole.drain(30)
    limit = bytes_in(tmp_path / "whole")
    short = StepWriter(settings(tmp_path / "short", limit - 1, file_format))
    for step in range(3):
        short.put(0, step, ENTRIES, arrays_of(np.random.default_rng(step)))
    assert short.drain(30).steps == 2 and bytes_in(tmp_path / "short") < limit
    tmp_path /= "exact"
    writer = StepWriter(settings(tmp_path, limit, file_format))
    for step in range(6):
        writer.put(0, step, ENTRIES, arrays_of(np.random.default_rng(step)))
    assert bytes_in(tmp_path) <= limit
    # Even if it is small enough: the dump would have a hole.
    writer.put(0, 6, ENTRIES[:1], [np.zeros(0)])
    costs = writer.drain(30)
    assert (costs.steps, costs.over_limit, costs.left_out) == (3, 4, 0) and bytes_in(tmp_path) == limit
    assert DumpReader(tmp_path).steps == [(0, 0), (1, 0), (2, 0)]


def test_a_slow_disk_holds_up_no_step(tmp_path, monkeypatch):
    release, stock = threading.Event(), worker.encode
    monkeypatch.setattr(worker, "encode", lambda *args: release.wait(60) and stock(*args))
    size = sum(array.nbytes for array in arrays_of(np.random.default_rng(0)))
    writer = StepWriter(settings(tmp_path), most_waiting_bytes=3 * size)
    began = time.monotonic()
    for step in range(10):
        writer.put(0, step, ENTRIES, arrays_of(np.random.default_rng(step)))
    assert time.monotonic() - began < 5
    assert writer.drain(0.1).left_out == 10
    release.set()
    costs = writer.drain(30)
    assert (costs.steps, costs.left_out) == (3, 7) and DumpReader(tmp_path).steps == [(0, 0), (1, 0), (2, 0)]


def test_a_broken_disk_is_told_and_no_error_of_the_step(tmp_path):
    (tmp_path / "file").write_text("")
    writer = StepWriter(settings(tmp_path / "file" / "dump"))
    for step in range(3):
        writer.put(0, step, ENTRIES, arrays_of(np.random.default_rng(0)))
        costs = writer.drain(30)
    assert costs.steps == 0 and costs.left_out == 3 and "cannot write" in costs.problem and "dump.json" in costs.problem
    total = costs + Costs(steps=2, bytes=10, held_s=0.5)
    assert (total.steps, total.bytes, total.left_out, total.problem) == (2, 10, 3, costs.problem)


def test_a_copy_is_taken(tmp_path):
    array = np.ones(3)
    writer = StepWriter(settings(tmp_path))
    writer.put(0, 0, ENTRIES[:1], [array])
    array[:] = 7
    writer.drain(30)
    assert DumpReader(tmp_path).values(0, 0)[0].values.tolist() == [1, 1, 1]


def test_a_url_is_a_folder_too():
    folder = open_folder("memory://tests/dump")
    StepWriter(settings("memory://tests/dump")).put(0, 4, ENTRIES, arrays_of(np.random.default_rng(0)))
    deadline = time.monotonic() + 30
    while not folder.exists("worker-00000/step-000000004.json") and time.monotonic() < deadline:
        time.sleep(0.01)
    dump = DumpReader("memory://tests/dump")
    assert dump.steps == [(4, 0)] and len(dump.values(4, 0)) == 3
    assert folder.names("nosuch") == []


def test_a_server_that_refuses_is_told_with_what_to_do(monkeypatch):
    folder = open_folder("memory://tests/refused")

    def refuse(*args, **kwargs):
        raise PermissionError("no.")

    for name in ("ls", "cat_file", "pipe_file"):
        monkeypatch.setattr(type(folder._files), name, refuse)
    for what, call in {
        "list memory://tests/refused": folder.names,
        "read memory://tests/refused/a": lambda: folder.read("a"),
        "write memory://tests/refused/a": lambda: folder.write("a", b""),
    }.items():
        with pytest.raises(
            DumpError, match=f"cannot {what}: PermissionError: no. Valid: a URL .* may list, read and w"
        ):
            call()


def test_the_thread_ends_when_it_has_no_work(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_IDLE_S", 0.05)
    writer = StepWriter(settings(tmp_path))
    for step in range(2):
        writer.put(0, step, ENTRIES, arrays_of(np.random.default_rng(0)))
        writer.drain(30)
        deadline = time.monotonic() + 30
        while writer._thread is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert writer._thread is None
    assert DumpReader(tmp_path).steps == [(0, 0), (1, 0)]


LAST_STEPS = """
import sys, time
import numpy as np
from tfps.debug import worker
from tfps.debug.step_file import PARAMETER, Entry

stock = worker.StepWriter._write
worker.StepWriter._write = lambda self, waiting: (time.sleep(0.1), stock(self, waiting))[1]
settings = worker.DumpSettings("key", sys.argv[1], "npz", 10**9, sys.argv[2])
setup = worker.encode_setup(settings, [Entry("a", PARAMETER, "kernel")]).encode()
for step in range(8):
    worker._write_step(setup, step, 0, np.ones(3, np.float32))
raise SystemExit("the program fails")
"""


def test_the_last_steps_of_a_program_that_fails_are_written(tmp_path):
    ended = subprocess.run([sys.executable, "-c", LAST_STEPS, tmp_path, HEADER], cwd=ROOT, timeout=60, check=False)
    assert ended.returncode == 1 and DumpReader(tmp_path).steps == [(step, 0) for step in range(8)]
