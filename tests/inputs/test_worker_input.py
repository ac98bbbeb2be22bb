"""What workers have of an input: whose shard goes on elsewhere, and what is left when nobody asks for it any more."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfps.inputs.worker_input import WorkerInput, iterator_handle, worker_iterator

BATCHES = 20


def read(strategy, host, name, spec, count):
    """Batches from an iterator of a worker."""

    def read_there():
        batches = worker_iterator(name, spec)
        return [next(batches) for _ in range(count)]

    return [int(batch) for batch in strategy.pool.call(host, read_there)]


def test_share_that_moves_keeps_the_order_of_its_epoch(strategy):
    source = WorkerInput(tf.data.Dataset.range(BATCHES).shuffle(BATCHES), strategy.worker_devices)
    orders = []
    for number in range(3):  # all of them are over the same dataset, as an evaluation while an epoch is under way
        epoch = iter(source)
        epoch.begin()
        strategy.pool.call(0, lambda e=epoch, n=number: e.start(0, 0, f"test_moves_{n}"))
        orders.append((epoch, read(strategy, 0, f"test_moves_{number}", source.element_spec, BATCHES // 2)))
    assert len({tuple(order) for _, order in orders}) == 3
    epoch, order = orders[1]
    epoch.taken[0] = 4
    strategy.pool.call(1, lambda: epoch.start(0, 1, "test_moves_there"))
    assert read(strategy, 1, "test_moves_there", source.element_spec, BATCHES // 2 - 4) == order[4:]


def fitted(strategy):
    """A model that was trained."""
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    model.fit(np.ones((40, 4)), np.ones((40, 1)), batch_size=4, verbose=0)
    return model


def test_iterators_go_after_the_model_they_were_for(strategy):
    model = fitted(strategy)
    named = dict(model.train_function.closures._iterators)
    assert {host for host, _ in named} == {0, 1}
    handles = []
    for (host, name), spec in named.items():
        with tf.device(strategy.worker_devices[host]):
            handles.append(iterator_handle(name, spec))
    for handle in handles:
        tf.raw_ops.IteratorToStringHandle(resource_handle=handle)
    del model
    gc.collect()
    other = fitted(strategy)
    for handle in handles:
        with pytest.raises(tf.errors.NotFoundError):
            tf.raw_ops.IteratorToStringHandle(resource_handle=handle)
    other.fit(np.ones((40, 4)), np.ones((40, 1)), batch_size=4, verbose=0)  # its own are there


def test_iterators_of_all_kinds_of_batches_go(strategy):
    words = tf.TensorSpec(None, tf.string), tf.SparseTensorSpec([None, 3]), tf.TensorSpec([5, None], tf.bool)
    spec = (*words, tf.RaggedTensorSpec([None, None], tf.int64), tf.OptionalSpec(tf.TensorSpec([])))

    class Owner:
        pass

    owner = Owner()
    strategy.iterators.named_by(owner)[1, "test_kinds"] = spec
    with tf.device(strategy.worker_devices[1]):
        handle = iterator_handle("test_kinds", spec)
    tf.raw_ops.IteratorToStringHandle(resource_handle=handle)
    del owner
    strategy.iterators.destroy_abandoned()
    with pytest.raises(tf.errors.NotFoundError):
        tf.raw_ops.IteratorToStringHandle(resource_handle=handle)
