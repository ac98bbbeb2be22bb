"""Models made, trained and dropped in one program: what they had on servers and workers goes with them."""

import gc
import os
import time
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

ROWS, DIM = 200_000, 16
TABLE_MB = ROWS * DIM * 4 / 2**20
MODELS, WARM_UP = 11, 5


def train_a_model(strategy, rows, optimizer):
    """Trains a model on a dataset of its own; returns a weak reference to it."""
    with strategy.scope():
        layers = [keras.layers.Embedding(rows, DIM), keras.layers.Flatten(), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((4,), dtype="int64"), *layers])
        model.compile(optimizer, "mse")
    ids = np.random.default_rng(0).integers(0, rows, (256, 4))
    model.fit(ids, np.ones((256, 1), np.float32), batch_size=32, verbose=0)
    model.evaluate(ids, np.ones((256, 1), np.float32), batch_size=32, verbose=0)
    model.predict(ids, batch_size=64, verbose=0)
    return weakref.ref(model)


def of_task(task):
    """Resident MB and threads of a process of the cluster."""
    with open(f"/proc/{task.pid}/status") as status:
        kilobytes = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return kilobytes / 1024, len(os.listdir(f"/proc/{task.pid}/task"))


def test_servers_and_workers_stay_level(strategy):
    """A model has a table and its slots, 24 MB, half of them on each server."""
    seen = []
    for _ in range(MODELS):
        model = train_a_model(strategy, ROWS, "adagrad")
        gc.collect()
        assert model() is None
        time.sleep(0.2)  # destruction is not waited for
        seen.append([of_task(task) for task in strategy.cluster.tasks])
    for number, task in enumerate(strategy.cluster.tasks):
        before, after = seen[WARM_UP][number], seen[-1][number]
        name, models = (task.order.job, task.order.index), MODELS - 1 - WARM_UP
        # A table that stays would be half a table and half its slots on each server. TensorFlow keeps the kernels of a
        # graph whose operations are on several tasks, a few MB.
        assert after[0] - before[0] < 0.5 * models * TABLE_MB, (name, [one[number] for one in seen])
        assert after[1] - before[1] <= 3, (name, [one[number] for one in seen])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_trained_model_is_collected(strategy, optimizer):
    model = train_a_model(strategy, 100, optimizer)
    gc.collect()
    assert model() is None


def test_the_gradient_registry_does_not_grow(strategy):
    from tensorflow.python.framework import ops

    train_a_model(strategy, 100, "sgd")
    before = len(ops.gradient_registry.list())
    train_a_model(strategy, 100, "sgd")
    assert len(ops.gradient_registry.list()) == before


def test_local_copies_and_ledgers_are_destroyed(strategy):
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    model.optimizer.iterations.assign(1_000_000)  # an old model, which all workers train at once
    model.fit(np.ones((64, 4)), np.ones((64, 1)), batch_size=4, verbose=0)
    variables = [*model.train_function.closures._variables, *model.train_function.mode._ledgers._variables]
    names = {variable.name for variable in variables}
    kernel = model.weights[0]._value.key
    assert f"tfps_copy_{kernel}" in names
    assert len([name for name in names if name.startswith("tfps_ledger")]) == 2
    assert all(exists(variable) for variable in variables if not variable.name.startswith("tfps_batch"))
    del model
    gc.collect()
    deadline = time.monotonic() + 60
    while any(exists(variable) for variable in variables):
        assert time.monotonic() < deadline, [variable for variable in variables if exists(variable)]
        time.sleep(0.1)


def exists(variable):
    with tf.device(variable.device):
        return bool(tf.raw_ops.VarIsInitializedOp(resource=variable.handle()))
