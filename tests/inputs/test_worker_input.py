"""What workers have of an input: whose shard is continued elsewhere, and what is left when nobody needs it any more."""

import gc
import os
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfps.inputs.input_shards import WHOLE
from tfps.inputs.iterators import next_batch
from tfps.inputs.worker_input import WorkerInput

BATCHES = 20


def read(strategy, host, iterator, spec, count):
    """Batches from an iterator of a worker."""

    def read_there():
        return [next_batch(iterator.handle, spec).get_value() for _ in range(count)]

    return [int(batch) for batch in strategy.pool.call(host, read_there)]


def test_a_shard_that_moves_keeps_the_order_of_its_epoch(strategy):
    source = WorkerInput(tf.data.Dataset.range(BATCHES).shuffle(BATCHES), strategy.worker_devices)
    orders = []
    for _ in range(3):  # all of them are over the same dataset, as an evaluation while an epoch is under way
        epoch = iter(source)
        epoch.begin()
        strategy.pool.call(0, lambda e=epoch: e.start(0, 0, "test"))
        orders.append((epoch, read(strategy, 0, epoch.iterators[0], source.element_spec, BATCHES // 2)))
    assert len({tuple(order) for _, order in orders}) == 3
    epoch, order = orders[1]
    epoch.taken[0] = 4
    strategy.pool.call(1, lambda: epoch.start(0, 1, "test"))
    assert read(strategy, 1, epoch.iterators[0], source.element_spec, BATCHES // 2 - 4) == order[4:]


def test_an_epoch_that_one_worker_began_is_divided_where_it_stopped(strategy):
    source = WorkerInput(tf.data.Dataset.range(BATCHES).shuffle(BATCHES), strategy.worker_devices)
    spec = source.element_spec

    def start(epoch, shard, host):
        strategy.pool.call(host, lambda: epoch.start(shard, host, "test"))

    epochs = [iter(source), iter(source)]
    for epoch in epochs:
        epoch.begin(alone=True)
        start(epoch, 0, 0)
    orders = [read(strategy, 0, epoch.iterators[0], spec, 9) for epoch in epochs]
    assert orders[0] != orders[1]
    # The shards of a later epoch, of an evaluation say, begin before those of the epochs that are divided.
    later = iter(source)
    assert WHOLE in source.shards._sent
    later.begin()
    assert WHOLE not in source.shards._sent, "the first worker keeps the whole input"
    start(later, 0, 0)
    for epoch, order in zip(epochs, orders, strict=True):
        epoch.taken[0] = 5
        start(epoch, 0, 1)  # the worker was lost
        assert read(strategy, 1, epoch.iterators[0], spec, 4) == order[5:]
        epoch.taken[0] = 9
        epoch.divide()
        assert epoch.taken == [5, 4]
        rest = []
        for shard in epoch.to_start:
            start(epoch, shard, shard)
            rest += read(strategy, shard, epoch.iterators[shard], spec, BATCHES // 2 - epoch.taken[shard])
        assert sorted(order + rest) == list(range(BATCHES))


def threads_of(task):
    return len(os.listdir(f"/proc/{task.pid}/task"))


def test_iterators_end_with_their_epoch(strategy):
    """Each has two threads that read ahead and map, and a pool."""
    data = tf.data.Dataset.range(BATCHES).map(lambda x: x + 1, num_parallel_calls=2).repeat()
    source = WorkerInput(data, strategy.worker_devices)
    worker = next(task for task in strategy.cluster.tasks if task.order.job == "worker" and task.order.index == 0)

    def begin(count):
        epochs = [iter(source) for _ in range(count)]
        for epoch in epochs:
            epoch.begin()
            strategy.pool.call(0, lambda e=epoch: e.start(0, 0, "test"))
            read(strategy, 0, epoch.iterators[0], source.element_spec, 2)
        return epochs

    begin(2)  # whatever a worker starts once
    before = threads_of(worker)
    epochs = begin(8)
    assert threads_of(worker) >= before + 2 * len(epochs)
    del epochs
    gc.collect()
    deadline = time.monotonic() + 60
    while threads_of(worker) > before + 2:
        assert time.monotonic() < deadline, (before, threads_of(worker))
        time.sleep(0.1)


def test_an_iterator_that_is_used_stays_when_others_go(strategy):
    first, second = fitted(strategy), fitted(strategy)
    del first
    gc.collect()
    second.fit(np.ones((40, 4)), np.ones((40, 1)), batch_size=4, verbose=0)
    assert int(second.optimizer.iterations) == 20


def fitted(strategy):
    """A model that was trained."""
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    model.fit(np.ones((40, 4)), np.ones((40, 1)), batch_size=4, verbose=0)
    return model


SPECS = {
    "string": tf.TensorSpec(None, tf.string),
    "sparse": tf.SparseTensorSpec([None, 3]),
    "bool": tf.TensorSpec([5, None], tf.bool),
    "ragged": tf.RaggedTensorSpec([None, None], tf.int64),
    "optional": tf.OptionalSpec(tf.TensorSpec([])),
}


def element(kind):
    return {
        "string": lambda: tf.constant("word"),
        "sparse": lambda: tf.sparse.from_dense(tf.eye(2, 3)),
        "bool": lambda: tf.ones([5, 2], tf.bool),
        "ragged": lambda: tf.ragged.constant([[1, 2], []], dtype=tf.int64),
        "optional": lambda: tf.experimental.Optional.from_value(tf.constant(1.0)),
    }[kind]()


@pytest.mark.parametrize("kind", SPECS)
def test_batches_of_all_kinds_are_read(strategy, kind):
    data = tf.data.Dataset.range(4).map(lambda _: element(kind))
    source = WorkerInput(data, strategy.worker_devices)
    epoch = iter(source)
    epoch.begin()
    strategy.pool.call(1, lambda: epoch.start(1, 1, "test"))
    spec = source.element_spec

    @tf.function(autograph=False)
    def count(handle):
        found = [next_batch(handle, spec).has_value() for _ in range(3)]
        return tf.stack(found)

    assert strategy.pool.call(1, lambda: count(epoch.iterators[1].handle)).tolist() == [True, True, False]
