"""A hand-written loop over a Keras model, with TensorFlow's own coordinator."""

import keras
import numpy as np
import tensorflow as tf


def test_coordinator_loop_counts_every_step(strategy):
    with strategy.scope():
        table = keras.layers.Embedding(20, 4, embeddings_initializer="zeros")
        model = keras.Sequential(
            [keras.Input((), dtype="int64"), table, keras.layers.Dense(1, kernel_initializer="zeros")]
        )
        optimizer = keras.optimizers.SGD(1.0)
        optimizer.build(model.trainable_variables)
        mean = keras.metrics.Mean()
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    data = coordinator.create_per_worker_dataset(lambda: tf.data.Dataset.from_tensors(tf.range(20)).repeat())

    @tf.function
    def step(iterator):
        def replica(ids):
            with tf.GradientTape() as tape:
                loss = -tf.reduce_sum(table(ids)) - tf.reduce_sum(model.layers[-1].bias)
            gradients = tape.gradient(loss, model.trainable_variables)
            pairs = [(g, v) for g, v in zip(gradients, model.trainable_variables, strict=True) if g is not None]
            optimizer.apply_gradients(pairs)
            mean.update_state(tf.ones([5]))
            return loss

        return strategy.run(replica, args=(next(iterator),))

    iterator = iter(data)
    for _ in range(30):
        coordinator.schedule(step, args=(iterator,))
    coordinator.join()
    assert int(optimizer.iterations) == 30
    np.testing.assert_array_equal(table.get_weights()[0], np.full((20, 4), 30.0))
    assert float(model.layers[-1].bias.numpy()[0]) == 30.0
    assert float(mean.result()) == 1.0 and float(mean.variables[1].numpy()) == 150.0


def test_plain_variables_are_placed_by_load(strategy):
    before = strategy.plan.loads()
    with strategy.scope():
        large = tf.Variable(tf.zeros([1000, 100]))
        small = [tf.Variable(tf.zeros([100, 100])) for _ in range(4)]
    assert len({v.device for v in small}) == 1 and small[0].device != large.device
    assert sum(load.nbytes for load in strategy.plan.loads()) - sum(load.nbytes for load in before) == 560_000
