"""Endless inputs with `steps_per_epoch`: one pass of steps has each example once, as in one process."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.inputs.counting import ROWS, Counter, each
from tfps.inputs.worker_input import WorkerInput
from tfps.training.asynchronous import pacing

Dataset = tf.data.Dataset
ODD = 45


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Text files of very different length, which hold every number once."""
    folder = tmp_path_factory.mktemp("files")
    for index, lines in enumerate(np.split(np.arange(ROWS), [1, 9, 33])):
        (folder / f"part{index}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


def lines(folder):
    files = Dataset.from_tensor_slices(sorted(str(path) for path in folder.iterdir()))
    return files.interleave(tf.data.TextLineDataset, cycle_length=2).map(
        lambda line: tf.strings.to_number(line, tf.int64)
    )


def generated():
    return Dataset.from_generator(lambda: iter(range(ODD)), output_signature=tf.TensorSpec([], tf.int64))


# The dataset, the steps of a pass, and the examples. 9 and 3 steps are not divisible by two workers.
PASSES = {
    "batches": (lambda folder: Dataset.range(ROWS).batch(4).repeat(), 12, ROWS),
    "across passes": (lambda folder: Dataset.range(ROWS).repeat().batch(16), 3, ROWS),
    "an odd number": (lambda folder: Dataset.range(ODD).batch(5).repeat(), 9, ODD),
    "a last short batch": (lambda folder: Dataset.range(ODD).batch(4).repeat(), 12, ODD),
    "shuffled": (lambda folder: Dataset.range(ODD).shuffle(ODD).batch(5).repeat(), 9, ODD),
    "shuffled, then batches": (lambda folder: Dataset.range(ODD).shuffle(ODD).repeat().batch(5), 9, ODD),
    "mapped": (lambda folder: Dataset.range(ODD).batch(5).repeat().map(lambda x: x).prefetch(2), 9, ODD),
    "three times": (lambda folder: Dataset.range(ODD).shuffle(ODD).batch(5).repeat(3), 9, ODD),
    "finite": (lambda folder: Dataset.range(ODD).batch(5), 9, ODD),
    "one step": (lambda folder: Dataset.range(ODD).batch(ODD).repeat(), 1, ODD),
    "files": (lambda folder: lines(folder).batch(4).repeat(), 12, ROWS),
    "files, shuffled": (lambda folder: lines(folder).shuffle(9).repeat().batch(4), 12, ROWS),
    "fed": (lambda folder: generated().batch(5).repeat(), 9, ODD),
}


@pytest.mark.parametrize("kind", PASSES)
def test_a_pass_is_a_pass(counters, folder, kind, monkeypatch):
    if kind == "finite" and keras.__version__.startswith("3.6."):
        pytest.skip("this Keras itself trains nothing in the second epoch")
    make, steps, rows = PASSES[kind]
    dataset = make(folder)
    # One worker alone reads the first pass; the second is divided halfway, and the third before it begins.
    monkeypatch.setattr(pacing, "ALONE", steps + steps // 2)
    monkeypatch.setattr(pacing, "UNSEEN", 1)
    counters("async").model.optimizer.iterations.assign(0)
    assert counters("async").fit(dataset, steps_per_epoch=steps, epochs=3) == [each(1, rows)] * 3
    assert counters("async").evaluate(dataset, steps=steps) == each(1, rows)


@pytest.mark.parametrize("mode", ["geo", "geo, overlap", "sync", "sync, backup"])
@pytest.mark.parametrize("kind", ["shuffled", pytest.param("across passes", marks=pytest.mark.slow)])
def test_a_pass_in_other_modes(counters, folder, kind, mode):
    make, steps, rows = PASSES[kind]
    assert counters(mode).fit(make(folder), steps_per_epoch=steps, epochs=3) == [each(1, rows)] * 3


def test_a_pass_of_one_worker(one_worker, folder):
    make, steps, rows = PASSES["shuffled"]
    assert Counter(one_worker, "async").fit(make(folder), steps_per_epoch=steps, epochs=2) == [each(1, rows)] * 2


def test_a_part_of_a_pass_is_the_part_of_one_process(counters):
    """Five steps an epoch: each begins where the one before ended."""
    dataset = Dataset.range(ODD).batch(5).repeat()
    epochs = counters("async").fit(dataset, steps_per_epoch=5, epochs=3)
    batches = [set(np.repeat(counts, 1).nonzero()[0] // 5) for counts in epochs]
    assert batches == [{0, 1, 2, 3, 4}, {5, 6, 7, 8, 0}, {1, 2, 3, 4, 5}]
    assert counters("async").evaluate(dataset, steps=2) == each(1, 10)


def test_validation_sees_the_first_batches_each_time(counters):
    counter = counters("async")
    validation = Dataset.range(ODD).batch(5).repeat().map(lambda x: (x, tf.cast(x, tf.float32)[:, None]))
    logs = counter.model.fit(
        validation, steps_per_epoch=9, epochs=2, validation_data=validation, validation_steps=3, verbose=0
    ).history
    assert logs["seen"] == [ODD, ODD] and logs["val_seen"] == [15, 15]


def test_whole_files_where_the_user_wants_them(strategy, folder):
    """Without steps each example comes once in any case; with steps only if batches are dealt out."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.FILE
    dataset = lines(folder).batch(4)

    def by_file(dataset, steps):
        source = WorkerInput(dataset, strategy.worker_devices, owner=strategy)
        source.steps_per_epoch = steps
        return source.shards.by_file

    assert [by_file(dataset, steps) for steps in (None, 5, None)] == [True, False, True]
    assert by_file(dataset.with_options(options), 5)
