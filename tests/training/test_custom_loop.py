"""A hand-written loop over a Keras model, with TensorFlow's own coordinator."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.runtime.test_remote_variables import gone, wait_until_gone
from tfps.runtime.remote_variables import OwnedVariables


def schedule(strategy, step, times):
    """Runs a step so often on whichever worker is free, each time on the ids of all 20 rows."""
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    data = coordinator.create_per_worker_dataset(lambda: tf.data.Dataset.from_tensors(tf.range(20)).repeat())
    iterator = iter(data)
    for _ in range(times):
        coordinator.schedule(step, args=(iterator,))
    coordinator.join()


@pytest.mark.parametrize(("builds", "momentum"), [(True, 0.0), (False, 0.0), (False, 0.5)])
def test_coordinator_loop_counts_every_step(strategy, builds, momentum, caplog):
    with strategy.scope():
        table = keras.layers.Embedding(20, 4, embeddings_initializer="zeros")
        model = keras.Sequential(
            [keras.Input((), dtype="int64"), table, keras.layers.Dense(1, kernel_initializer="zeros")]
        )
        optimizer = keras.optimizers.SGD(1.0, momentum=momentum)
        if builds:
            optimizer.build(model.trainable_variables)
        mean = keras.metrics.Mean()

    def positive(number):
        # Converted by AutoGraph, as the function that calls it.
        if number < 0:
            number = -number
        return number

    @tf.function
    def step(iterator):
        def replica(ids):
            with tf.GradientTape() as tape:
                loss = -tf.reduce_sum(table(ids)) - tf.reduce_sum(model.layers[-1].bias)
            gradients = tape.gradient(loss, model.trainable_variables)
            pairs = [(g, v) for g, v in zip(gradients, model.trainable_variables, strict=True) if g is not None]
            optimizer.apply_gradients(pairs)
            mean.update_state(positive(-tf.ones([])) * tf.ones([5]))
            return loss

        return strategy.run(replica, args=(next(iterator),))

    schedule(strategy, step, 30)
    assert "AutoGraph could not transform" not in caplog.text
    assert int(optimizer.iterations) == 30
    assert float(mean.result()) == 1.0 and float(mean.variables[1].numpy()) == 150.0
    if momentum:
        return  # of which each worker sees what it sees
    np.testing.assert_array_equal(table.get_weights()[0], np.full((20, 4), 30.0))
    assert float(model.layers[-1].bias.numpy()[0]) == 30.0


def test_what_waits_on_workers_for_the_next_push_ends_with_the_function(strategy, monkeypatch):
    monkeypatch.setattr(strategy, "wire", "int8")
    names = []
    add_graph = OwnedVariables.add_graph

    def remember(owned, *args):
        add_graph(owned, *args)
        names.extend(owned)

    monkeypatch.setattr(OwnedVariables, "add_graph", remember)
    with strategy.scope():
        table = keras.layers.Embedding(20, 4, embeddings_initializer="zeros")
        table.build(())
        optimizer = keras.optimizers.SGD(1.0)

    @tf.function
    def step(iterator):
        def replica(ids):
            with tf.GradientTape() as tape:
                loss = -tf.reduce_sum(table(ids))
            optimizer.apply_gradients(zip(tape.gradient(loss, table.variables), table.variables, strict=True))

        # In the graph of a loop, which is not that of the function.
        for _ in tf.range(2):
            strategy.run(replica, args=(next(iterator),))

    schedule(strategy, step, 8)
    # A rounding by which the rows differ from 16 waits there.
    assert names and not all(gone(variable) for variable in names)
    np.testing.assert_allclose(table.get_weights()[0], np.full((20, 4), 16.0), rtol=0.02)
    del step
    gc.collect()
    wait_until_gone(names)


def test_all_tables_of_a_step_share_a_request(strategy):
    with strategy.scope():
        tables = [keras.layers.Embedding(20, 4, embeddings_initializer="zeros") for _ in range(3)]
        inputs = keras.Input((), dtype="int64")
        model = keras.Model(inputs, keras.layers.Add()([table(inputs) for table in tables]))
        optimizer = keras.optimizers.SGD(1.0)

    @tf.function
    def step(iterator):
        def replica(ids):
            with tf.GradientTape() as tape:
                loss = -tf.reduce_sum(model(ids))
            optimizer.apply_gradients(zip(tape.gradient(loss, model.variables), model.variables, strict=True))
            return loss

        return strategy.run(replica, args=(next(iterator),))

    schedule(strategy, step, 5)
    for weights in model.get_weights():
        np.testing.assert_array_equal(weights, np.full((20, 4), 5.0))
    nodes = step._list_all_concrete_functions()[0].graph.as_graph_def().node
    gathers = [node.device for node in nodes if node.op == "TfpsGatherRows"]
    if not gathers:
        pytest.skip("the ops are not built: TensorFlow's own send more")
    # Where the tables are depends on what else the servers hold.
    servers = {server for table in tables for server in table.embeddings._value.servers}
    assert len(gathers) == len(set(gathers)) == len(servers)
    assert all("/job:ps/" in device for device in gathers)


def test_plain_variables_are_placed_by_load(strategy):
    first, second = (load.nbytes for load in strategy.plan.loads())
    with strategy.scope():
        # Other tests may have left more on one server; this variable goes to the other one.
        level = tf.Variable(tf.zeros([abs(first - second) // 4]))
        before = strategy.plan.loads()
        large = tf.Variable(tf.zeros([1000, 100]))
        small = [tf.Variable(tf.zeros([100, 100])) for _ in range(4)]
    assert len({v.device for v in small}) == 1 and small[0].device != large.device
    assert sum(load.nbytes for load in strategy.plan.loads()) - sum(load.nbytes for load in before) == 560_000
    del level


def test_a_plain_variable_beside_a_model(strategy):
    try:
        keras.optimizers.SGD().apply([tf.zeros(())] * 2, [keras.Variable(0.0), tf.Variable(0.0)])
    except AttributeError:
        pytest.skip("the optimizers of this Keras do not train variables of both kinds")
    with strategy.scope():
        table = keras.layers.Embedding(20, 2, embeddings_initializer="zeros")
        table.build()
        plain = tf.Variable(0.0)
        optimizer = keras.optimizers.SGD(1.0)

    @tf.function
    def step(iterator):
        def replica(ids):
            variables = [*table.trainable_weights, plain]
            with tf.GradientTape() as tape:
                loss = -tf.reduce_sum(table(ids)) - plain
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return loss

        return strategy.run(replica, args=(next(iterator),))

    schedule(strategy, step, 10)
    assert float(plain.numpy()) == 10.0
    np.testing.assert_array_equal(table.get_weights()[0], np.full((20, 2), 10.0))


@pytest.mark.parametrize("source", ["own", "global", "tf"])
def test_no_two_steps_draw_the_same_numbers(strategy, source):
    keras.utils.set_random_seed(3)
    with strategy.scope():
        seed = keras.random.SeedGenerator(5) if source == "own" else None

    @tf.function
    def step(iterator):
        def replica(ids):
            if source == "tf":
                return tf.random.normal([])
            return keras.random.normal([], seed=seed)

        return strategy.run(replica, args=(next(iterator),))

    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    iterator = iter(coordinator.create_per_worker_dataset(lambda: tf.data.Dataset.from_tensors(tf.range(20)).repeat()))
    drawn = [coordinator.schedule(step, args=(iterator,)) for _ in range(24)]
    coordinator.join()
    assert len({round(float(one.fetch()), 6) for one in drawn}) == 24
