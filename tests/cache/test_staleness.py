"""A row that a worker keeps is used for `max_staleness` steps and no longer, and no push is lost or counted twice.

The rows count: with SGD at rate 1 and a gradient of -1, each step adds 1 to each of its rows.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

ROWS, STEPS = 64, 96


class Counting(keras.Model):
    """Looks up all rows in each step, and logs the oldest and the youngest that it sees."""

    def __init__(self, tables):
        super().__init__()
        self.tables = [
            keras.layers.Embedding(ROWS, dim, embeddings_initializer="zeros", name=f"counter_{i}")
            for i, dim in enumerate(tables)
        ]

    def build(self, shape):
        for table in self.tables:
            table.build(shape)

    def call(self, ids):
        return tf.concat([table(ids) for table in self.tables], -1)

    def train_step(self, data):
        ids, number = data
        with tf.GradientTape() as tape:
            rows = self(ids)
            loss = -tf.reduce_sum(rows)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        # With one worker the rows of step n have n updates if they are fresh.
        ages = number[:, None] - rows
        return {"age": tf.reduce_max(ages), "youngest": tf.reduce_min(ages)}


def count(strategy, steps=STEPS, tables=(2,), batch=ROWS):
    with strategy.scope():
        model = Counting(tables)
        model.build((None,))
        model.compile(optimizer=keras.optimizers.SGD(1.0))
    ids = np.tile(np.arange(ROWS), steps).reshape(-1, batch)
    numbers = np.repeat(np.arange(steps, dtype="float32"), ROWS).reshape(-1, batch)
    return model, tf.data.Dataset.from_tensor_slices((ids, numbers))


def values(model):
    return [table.embeddings.value.numpy() for table in model.tables]


@pytest.mark.parametrize(("max_staleness", "max_missed"), [(1, 9), (5, 9), (9, 3)])
def test_rows_are_never_older_than_the_limits_and_reach_them(one_worker, caching, max_staleness, max_missed):
    caching(1024, max_staleness, max_missed)
    model, data = count(one_worker, tables=(2, 3))
    before = one_worker.record.counts().cached
    # The log of an epoch is the mean over its steps: of the oldest row of each.
    logs = model.fit(data, verbose=0).history
    # All rows are used in each step. Step 0 fetches, `most` steps use what it has fetched: the ages are 0, 1, 2, 0, ...
    most = min(max_staleness, max_missed)
    ages = np.arange(STEPS) % (most + 1)
    assert logs["age"] == logs["youngest"] == [pytest.approx(np.mean(ages))]
    for rows in values(model):
        np.testing.assert_array_equal(rows, STEPS)
    now, kept = one_worker.record.counts().cached, np.count_nonzero(ages)
    assert now.asked - before.asked == 2 * ROWS * STEPS
    assert now.found - before.found == 2 * ROWS * kept
    assert now.saved_bytes - before.saved_bytes == ROWS * kept * (2 * 8 + 5 * 4)


def test_no_update_is_lost_with_two_workers(strategy, caching, no_young):
    caching(1024, 8)
    model, data = count(strategy)
    model.fit(data, epochs=2, verbose=0)
    np.testing.assert_array_equal(values(model)[0], 2 * STEPS)
