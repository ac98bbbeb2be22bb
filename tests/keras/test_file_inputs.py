"""Inputs read by the workers: each line once, by files where that can be and by batches elsewhere, in one order."""

import functools
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfps.inputs import sharding, shipping

LINES = 61
FILES = 5


@pytest.fixture
def names(tmp_path):
    """Text files of very different length, which hold every number once."""
    for index, lines in enumerate(np.split(np.arange(LINES), [1, 2, 30, 40])):
        (tmp_path / f"part{index}.txt").write_text("".join(f"{line}\n" for line in lines))
    return sorted(str(path) for path in tmp_path.iterdir())


@pytest.fixture
def records(tmp_path, names):
    """The same as TFRecord files."""
    folder = tmp_path / "records"
    folder.mkdir()
    for name in names:
        with tf.io.TFRecordWriter(str(folder / name.rpartition("/")[2])) as writer:
            for line in pathlib.Path(name).read_text().split():
                writer.write(line)
    return sorted(str(path) for path in folder.iterdir())


def batches(lines):
    return lines.map(lambda line: tf.strings.to_number(line, tf.int64)).batch(4)


def interleaved(names):
    return tf.data.Dataset.from_tensor_slices(names).interleave(tf.data.TextLineDataset, cycle_length=2)


def headed(names):
    return tf.data.Dataset.from_tensors("a header").concatenate(interleaved(names))


BY_FILE = {
    "interleaved": lambda names: batches(interleaved(names)),
    "in parallel": lambda names: batches(
        tf.data.Dataset.list_files(names).interleave(tf.data.TextLineDataset, num_parallel_calls=2)
    ),
    "one after the other": lambda names: batches(
        tf.data.Dataset.from_tensor_slices(names).flat_map(tf.data.TextLineDataset)
    ),
    "one list of files": lambda names: batches(tf.data.TextLineDataset(names)),
    "shuffled": lambda names: batches(interleaved(names).shuffle(20)).prefetch(2),
}
BY_BATCH = {
    "the first lines": lambda names: batches(interleaved(names).take(LINES)),
    "without a header": lambda names: batches(headed(names).skip(1)),
    "beside another": lambda names: batches(
        tf.data.Dataset.zip((interleaved(names), tf.data.Dataset.range(LINES))).map(lambda line, _: line)
    ),
    "fewer files than workers": lambda names: batches(interleaved(names[:1])),
}


def split(dataset):
    """Whether two workers would get whole files."""
    return sharding.split_by_file(shipping.make_shippable_graph(dataset, 2), 2)


def examples(batch):
    """By which Keras divides a loss; multiplied by it, each line adds 1 to its row."""
    return tf.cast(tf.shape(batch)[0], tf.float32)


def trained(strategy, dataset, epochs=2):
    """How often each line was trained."""
    with strategy.scope():
        table = keras.layers.Embedding(LINES + 1, 1, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((), dtype="int64"), table])
        model.compile(keras.optimizers.SGD(1.0), loss=lambda labels, rows: -rows * examples(rows))
    model.fit(dataset.map(lambda ids: (ids, tf.cast(ids, tf.float32)[:, None])), epochs=epochs, verbose=0)
    return model.get_weights()[0][:, 0]


@pytest.mark.parametrize("kind", BY_FILE)
def test_whole_files_go_to_workers(strategy, names, kind):
    assert split(BY_FILE[kind](names))
    np.testing.assert_array_equal(trained(strategy, BY_FILE[kind](names))[:LINES], 2)


def test_record_files_go_to_workers(strategy, records):
    dataset = batches(tf.data.Dataset.from_tensor_slices(records).interleave(tf.data.TFRecordDataset))
    assert split(dataset)
    np.testing.assert_array_equal(trained(strategy, dataset)[:LINES], 2)


@pytest.mark.parametrize("kind", BY_BATCH)
def test_batches_go_to_workers_where_files_would_change_the_epoch(strategy, names, kind):
    assert not split(BY_BATCH[kind](names))
    lines = 1 if kind == "fewer files than workers" else LINES
    np.testing.assert_array_equal(trained(strategy, BY_BATCH[kind](names)), [2] * lines + [0] * (LINES + 1 - lines))


def slowly(number):
    """The same, after a time that nobody knows before."""
    began = tf.timestamp()
    waits = (number + tf.cast(1000 * began, tf.int64)) % 5 == 0
    until = began + tf.where(waits, tf.constant(0.05, tf.float64), 0.0)
    turns = tf.while_loop(lambda _: tf.timestamp() < until, lambda turn: turn + 1, [tf.constant(0)])[0]
    return number + 0 * tf.cast(turns, number.dtype)


def with_options(dataset, deterministic=True):
    """With more threads than a small machine has."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = 8
    if not deterministic:
        options.deterministic = False
    return dataset.with_options(options)


def ten_each(function):
    return lambda begin: function(tf.data.Dataset.range(begin, tf.minimum(begin + 10, LINES)))


def halves():
    return [tf.data.Dataset.range(LINES // 2), tf.data.Dataset.range(LINES // 2, LINES)]


numbers = functools.partial(tf.data.Dataset.range, LINES)
tens = functools.partial(tf.data.Dataset.range, 0, LINES, 10)
IN_NO_ORDER = {
    "drawn from two": lambda: tf.data.Dataset.sample_from_datasets(halves(), [0.5, 0.5]),
    "drawn anew": lambda: tf.data.Dataset.sample_from_datasets(halves(), [0.5, 0.5], rerandomize_each_iteration=True),
    "mapped": lambda: numbers().map(slowly, num_parallel_calls=4, deterministic=False),
    "by its options": lambda: with_options(numbers().map(slowly, num_parallel_calls=4), deterministic=False),
    "interleaved": lambda: tens().interleave(
        ten_each(lambda ten: ten.map(slowly)), cycle_length=4, num_parallel_calls=4, deterministic=False
    ),
    "batched": lambda: numbers().map(slowly).batch(3, num_parallel_calls=4, deterministic=False).unbatch(),
    "shuffled inside": lambda: tens().flat_map(ten_each(lambda ten: ten.shuffle(10))),
}


@pytest.mark.parametrize("kind", IN_NO_ORDER)
def test_inputs_in_no_order_are_trained_once(strategy, kind):
    dataset = IN_NO_ORDER[kind]().prefetch(1).batch(1)  # TensorFlow makes one of `map` and `batch`, in order
    np.testing.assert_array_equal(trained(strategy, with_options(dataset))[:LINES], 2)


def test_chance_keeps_the_same_for_all_workers(strategy):
    drawn = numbers().map(lambda x: (slowly(x), tf.random.uniform([])), num_parallel_calls=4)
    kept = drawn.filter(lambda _, chance: chance < 0.5).map(lambda x, _: x)
    often = trained(strategy, with_options(kept.batch(1)), epochs=1)
    assert set(often.tolist()) == {0.0, 1.0}


def test_what_is_drawn_in_functions_is_sent_with_a_seed_alone():
    tf.random.set_seed(None)  # that of another test would be the seed of all
    shuffled = [tens().flat_map(ten_each(lambda ten, s=seed: ten.shuffle(10, seed=s))) for seed in (None, 3)]
    assert [shipping.make_shippable_graph(dataset, 2) is not None for dataset in shuffled] == [False, True]
    assert shipping.make_shippable_graph(shuffled[0], 1) is not None
