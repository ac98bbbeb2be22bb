"""Datasets with a state outside their graph, and those without: each example is trained once an epoch."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.inputs.counting import ROWS, each
from tfps.inputs import shipping

Dataset = tf.data.Dataset
NUMBER = tf.TensorSpec([], tf.int64)


@pytest.fixture(scope="module")
def service():
    """A tf.data service: a dispatcher and one server, in this process."""
    names = tf.data.experimental.service
    dispatcher = names.DispatchServer()
    address = dispatcher.target.partition("://")[2]
    server = names.WorkerServer(names.WorkerConfig(dispatcher_address=address, heartbeat_interval_ms=100))
    yield dispatcher.target
    server._stop()
    dispatcher._stop()


def numbers():
    return Dataset.range(ROWS)


def served(service, mode, **arguments):
    return numbers().apply(tf.data.experimental.service.distribute(mode, service, **arguments))


def new_job():
    """A name that no test had: the iterators of one name share a job, which ends with the first of them."""
    return f"job {next(_JOBS)}"


_JOBS = itertools.count()
SERVICE = {
    "parallel epochs": lambda service: served(service, "parallel_epochs"),
    "parallel epochs of a job": lambda service: served(service, "parallel_epochs", job_name=new_job()),
    "distributed epoch": lambda service: served(service, "distributed_epoch"),
    "distributed epoch of a job": lambda service: served(service, "distributed_epoch", job_name=new_job()),
    "by policy": lambda service: served(service, tf.data.experimental.service.ShardingPolicy.DYNAMIC),
}


@pytest.mark.parametrize("mode", ["async", "geo", "sync"])
def test_a_served_dataset_in_every_mode(counters, service, mode):
    dataset = SERVICE["distributed epoch of a job"](service).batch(4)
    assert counters(mode).fit(dataset, epochs=2) == [each(1), each(1)]


@pytest.mark.parametrize("kind", SERVICE)
def test_a_served_dataset_in_every_way(counters, service, kind):
    dataset = SERVICE[kind](service).batch(5)
    assert counters("async").fit(dataset, epochs=2) == [each(1), each(1)]
    assert counters("async").evaluate(dataset) == each(1)


def drawn_from(iterator):
    return Dataset.range(ROWS).map(lambda _: iterator.get_next())


def content(kind):
    table = kind(
        tf.lookup.KeyValueTensorInitializer(tf.range(ROWS, dtype=tf.int64), tf.range(ROWS, dtype=tf.int64)), -1
    )
    return numbers().map(table.lookup)


def changing():
    table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, -1)
    table.insert(tf.range(ROWS, dtype=tf.int64), tf.range(ROWS, dtype=tf.int64))
    return numbers().map(lambda number: tf.ensure_shape(table.lookup(number), []))


def counted():
    """Numbers that a variable counts."""
    count = tf.Variable(-1, dtype=tf.int64)
    dataset = numbers().map(lambda _: count.assign_add(1) % ROWS)
    dataset.count = count
    return dataset


def with_random(source):
    return Dataset.zip((numbers(), source)).map(lambda number, _: number)


def by_generator():
    generator = tf.random.Generator.from_seed(1)
    return numbers().map(lambda number: number + 0 * generator.uniform([], 0, 9, tf.int64))


def printing():
    def shown(number):
        tf.print(end="")
        return number

    return numbers().map(shown)


def resampled():
    """All numbers: the classes are already as they should be."""

    def parity(number):
        return number % 2

    def second(_, number):
        return number

    return numbers().rejection_resample(parity, [0.5, 0.5], [0.5, 0.5]).map(second)


def drawn():
    def noisy(number):
        return number + tf.random.uniform([], 0, 1, tf.int64)

    return numbers().map(noisy)


def grouped():
    def key(number):
        return number % 3

    def batch(_, group):
        return group.batch(4)

    return numbers().group_by_window(key, batch, 4).unbatch()


def scanned():
    def count(before, _):
        return before + 1, before + 1

    return numbers().scan(np.int64(-1), count)


def halves():
    return [Dataset.range(ROWS // 2), Dataset.range(ROWS // 2, ROWS)]


FED = {
    "generator": lambda tmp: Dataset.from_generator(lambda: iter(range(ROWS)), output_signature=NUMBER),
    "generator, shuffled": lambda tmp: FED["generator"](tmp).shuffle(ROWS),
    "py_function": lambda tmp: numbers().map(lambda x: tf.ensure_shape(tf.py_function(lambda y: y, [x], tf.int64), [])),
    "numpy_function": lambda tmp: numbers().map(
        lambda x: tf.ensure_shape(tf.numpy_function(lambda y: y, [x], tf.int64, stateful=False), [])
    ),
    "snapshot": lambda tmp: numbers().snapshot(str(tmp / "snapshot")),
    "cache in a file": lambda tmp: numbers().cache(str(tmp / "cache")),
    "cache in a function": lambda tmp: Dataset.range(0, ROWS, 8).flat_map(lambda at: Dataset.range(at, at + 8).cache()),
    "an iterator": lambda tmp: drawn_from(iter(numbers().repeat())),
    "saved": lambda tmp: numbers().save(str(tmp / "saved")) or Dataset.load(str(tmp / "saved")),
    "a table that changes": lambda tmp: changing(),
    "a variable": lambda tmp: counted(),
    "a random generator": lambda tmp: by_generator(),
    "printed": lambda tmp: printing(),
}
SHIPPED = {
    "cache in memory": lambda tmp: numbers().shuffle(ROWS).cache(),
    "a table": lambda tmp: content(tf.lookup.StaticHashTable),
    "a layer": lambda tmp: numbers().map(keras.layers.IntegerLookup(vocabulary=np.arange(ROWS)[1:])),
    "counter": lambda tmp: Dataset.counter().take(ROWS),
    "chosen": lambda tmp: Dataset.choose_from_datasets(halves(), Dataset.range(2).repeat(ROWS)),
    "sampled": lambda tmp: Dataset.sample_from_datasets(halves()),
    "random": lambda tmp: with_random(Dataset.random()),
    "random anew": lambda tmp: with_random(Dataset.random(rerandomize_each_iteration=True)),
    "drawn in a map": lambda tmp: drawn(),
    "grouped": lambda tmp: grouped(),
    "resampled": lambda tmp: resampled(),
    "scanned": lambda tmp: scanned(),
}


def is_shipped(dataset):
    return shipping.make_shippable_graph(dataset, 2) is not None


@pytest.mark.parametrize("kind", [*FED, *SHIPPED])
def test_a_dataset_with_or_without_state(counters, tmp_path, kind):
    dataset = (FED | SHIPPED)[kind](tmp_path)
    assert is_shipped(dataset) == (kind in SHIPPED)
    assert counters("async").fit(dataset.batch(5), epochs=2) == [each(1), each(1)]


@pytest.mark.parametrize("mode", ["geo", "sync"])
@pytest.mark.parametrize("kind", ["generator, shuffled", "cache in memory", "sampled"])
def test_a_dataset_in_other_modes(counters, tmp_path, kind, mode):
    dataset = (FED | SHIPPED)[kind](tmp_path).batch(5)
    assert counters(mode).fit(dataset, epochs=2) == [each(1), each(1)]


def test_operations_of_other_libraries_stay_with_the_chief():
    """A worker may not have them."""
    assert shipping._is_safe("AddV2") and not shipping._is_safe("TfpsSegmentSumRows")
    assert not shipping._is_safe("NoSuchOperation") and not shipping._is_safe("NoSuchDataset")
