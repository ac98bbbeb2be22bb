"""Inputs as TensorFlow's guides distribute them: each is divided between the workers, as the dataset itself is."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.inputs.counting import ROWS, each
from tfps.errors import ConfigError

Dataset = tf.data.Dataset


def batches(size=4):
    """Numbers, as a model and its labels need them."""
    numbers = Dataset.range(ROWS).shuffle(ROWS).batch(size)
    return numbers.map(lambda number: (number, tf.cast(number, tf.float32)[:, tf.newaxis]))


def for_pipeline(context):
    """As guides write it: each pipeline has its part, in batches of its part of the global batch."""
    size = context.get_per_replica_batch_size(4)
    numbers = Dataset.range(ROWS).shard(context.num_input_pipelines, context.input_pipeline_id)
    numbers = numbers.shuffle(ROWS).repeat().batch(size).prefetch(2)
    return numbers.map(lambda number: (number, tf.cast(number, tf.float32)[:, tf.newaxis]))


def seen(counter, x, **arguments):
    counter.model.fit(x, verbose=0, **arguments)
    return counter._counts()


def test_a_distributed_dataset(strategy, counter):
    x = strategy.experimental_distribute_dataset(batches())
    assert seen(counter, x, epochs=2) == each(1)
    logs = counter.model.fit(x, validation_data=x, verbose=0).history
    assert logs["seen"] == logs["val_seen"] == [ROWS]
    assert counter.model.evaluate(x, verbose=0, return_dict=True)["seen"] == ROWS
    assert len(counter.model.predict(x, verbose=0)) == ROWS
    options = tf.distribute.InputOptions(experimental_fetch_to_device=False)
    assert seen(counter, strategy.experimental_distribute_dataset(batches(), options)) == each(1)


def test_a_distributed_dataset_made_in_the_scope_and_read_by_hand(strategy):
    with strategy.scope():
        x = strategy.experimental_distribute_dataset(batches())
    assert sorted(np.concatenate([numbers for numbers, _ in x]).tolist()) == list(range(ROWS))


def test_datasets_from_a_function(strategy, counter):
    x = strategy.distribute_datasets_from_function(for_pipeline)
    assert seen(counter, x, steps_per_epoch=12, epochs=2) == each(1)
    assert counter.model.evaluate(x, steps=12, verbose=0, return_dict=True)["seen"] == ROWS


def test_a_function_that_returns_no_dataset(strategy):
    with pytest.raises(ConfigError, match="dataset_fn.*tf.data.Dataset"):
        strategy.distribute_datasets_from_function(lambda context: [1, 2])


class DatasetCreator:
    """The class of Keras 2: a function of an input context, which `fit` calls."""

    def __init__(self, dataset_fn):
        self.dataset_fn = dataset_fn

    def __call__(self, *args, **kwargs):
        return self.dataset_fn(*args, **kwargs)


def test_a_dataset_creator(counter):
    """Keras 3 has no such class, so programs bring one of that name."""
    creator = DatasetCreator(for_pipeline)
    assert seen(counter, creator, steps_per_epoch=12, epochs=2) == each(1)
    logs = counter.model.fit(batches(), validation_data=creator, validation_steps=12, verbose=0).history
    assert logs["val_seen"] == [ROWS]


def test_a_worker_of_a_hand_written_loop_has_a_dataset_of_its_own(strategy):
    """Inside `create_per_worker_dataset` both methods do what TensorFlow's do."""
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    for distribute in (
        lambda: strategy.distribute_datasets_from_function(for_pipeline),
        lambda: strategy.experimental_distribute_dataset(batches()),
    ):
        iterator = iter(coordinator.create_per_worker_dataset(distribute))

        @tf.function
        def step(iterator):
            return strategy.run(lambda batch: tf.size(batch[0]), args=(next(iterator),))

        sizes = [coordinator.schedule(step, args=(iterator,)) for _ in range(4)]
        coordinator.join()
        assert [int(np.asarray(size.fetch())) for size in sizes] == [4] * 4
    eager = coordinator.create_per_worker_dataset(strategy.experimental_distribute_dataset(batches()))
    assert iter(eager) is not None


def test_a_custom_model_takes_them_too(strategy):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

    with strategy.scope():
        model = Model()
        model.compile("sgd", "mse", steps_per_execution=3)
    x = Dataset.from_tensor_slices((np.ones((24, 2), "float32"), np.ones((24, 1), "float32"))).shuffle(24).repeat()
    model.fit(strategy.experimental_distribute_dataset(x.batch(4)), steps_per_epoch=6, epochs=2, verbose=0)
    assert int(model.optimizer.iterations) == 12
