"""Files that workers open: relative paths after a change of folder, and files that a worker cannot read."""

import os
import pathlib

import pytest
import tensorflow as tf

from tests.inputs.counting import ROWS, each
from tfps.cluster import faults
from tfps.errors import InputFileError
from tfps.inputs import shipping

Dataset = tf.data.Dataset


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Makes a folder with files the current one; no worker was started there."""
    folder = tmp_path / r"a (b) \1 + [c] é"
    folder.mkdir()
    for index in range(2):
        (folder / f"part{index}.txt").write_text("".join(f"{line}\n" for line in range(index, ROWS, 2)))
        with tf.io.TFRecordWriter(str(folder / f"part{index}.tfrecord")) as writer:
            for line in range(index, ROWS, 2):
                writer.write(str(line))
    for line in range(ROWS):
        (folder / f"{line}.number").write_text(str(line))
    Dataset.range(ROWS).save(str(folder / "saved"))
    monkeypatch.chdir(folder)
    return folder


def parsed(lines):
    return lines.map(lambda line: tf.strings.to_number(line, tf.int64)).batch(4)


NAMES = ["part0.txt", "part1.txt"]
READERS = {
    "one list": lambda: parsed(tf.data.TextLineDataset(NAMES)),
    "interleaved": lambda: parsed(Dataset.from_tensor_slices(NAMES).interleave(tf.data.TextLineDataset)),
    "matched": lambda: parsed(Dataset.list_files("./*.txt").interleave(tf.data.TextLineDataset)),
    "records": lambda: parsed(tf.data.TFRecordDataset(["part0.tfrecord", "part1.tfrecord"])),
    "read_file": lambda: parsed(Dataset.range(ROWS).map(lambda x: tf.io.read_file(tf.as_string(x) + ".number"))),
    "csv": lambda: tf.data.experimental.CsvDataset(NAMES, [tf.int64]).map(lambda number: number).batch(4),
    "saved": lambda: Dataset.load("saved").batch(4),
    "absolute": lambda: parsed(tf.data.TextLineDataset([os.path.abspath(name) for name in NAMES])),
    "a scheme": lambda: parsed(tf.data.TextLineDataset([f"file://{os.path.abspath(name)}" for name in NAMES])),
}


@pytest.mark.parametrize("kind", READERS)
def test_relative_paths_are_those_of_the_program(counter, here, kind):
    dataset = READERS[kind]()
    assert shipping.make_shippable_graph(dataset, 2) is not None
    assert counter.fit(dataset) == [each(1)]


def test_a_program_that_changes_folders_reads_other_files(counter, here, tmp_path, monkeypatch):
    dataset = READERS["one list"]()
    assert counter.fit(dataset) == [each(1)]
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        pathlib.Path(name).write_text("7\n")
    assert counter.fit(dataset) == [[2 * (row == 7) for row in range(ROWS)]]


@pytest.mark.parametrize("by_file", [True, False])
def test_a_missing_file_is_named_with_its_task(counter, here, by_file):
    names = [*NAMES, "missing.txt"]
    dataset = parsed(Dataset.from_tensor_slices(names).interleave(tf.data.TextLineDataset))
    with pytest.raises(InputFileError, match=r"worker [01] at .*missing\.txt.*No such file or directory") as error:
        counter.fit(dataset, steps_per_epoch=None if by_file else 13)
    assert error.value.path == str(here / "missing.txt") and error.value.task[0] == "worker"
    assert isinstance(error.value, OSError)
    # The next input is trained as ever.
    assert counter.fit(READERS["one list"]()) == [each(1)]


@pytest.mark.parametrize(
    ("kind", "text", "path"),
    [
        (
            tf.errors.NotFoundError,
            "{{function_node f}} /d/a b.txt; No such file or directory\n\t [[{{node X}}]]",
            "/d/a b.txt",
        ),
        (tf.errors.PermissionDeniedError, "/d/a.txt; Permission denied [Op:Y]", "/d/a.txt"),
        (tf.errors.FailedPreconditionError, "Graph execution error:\n\n/d; Is a directory", "/d"),
        (tf.errors.UnimplementedError, "File system scheme 's3' not implemented (file: 's3://b/f')", "s3://b/f"),
    ],
)
def test_every_reason_is_named(kind, text, path):
    ours = faults.translate(kind(None, None, text), None, ("worker", 1))
    assert type(ours) is InputFileError and ours.path == path and ours.task == ("worker", 1)
    assert "worker 1" in str(ours)


def test_words_of_the_user_are_no_file():
    error = tf.errors.InvalidArgumentError(None, None, "a.txt; No such file or directory")
    assert faults.translate(error, None, ("worker", 1)) is error
