"""What workers keep shows in the snapshots of a job."""

import keras
import numpy as np
import tensorflow as tf


def test_the_hits_of_a_fit_are_in_a_snapshot(strategy, caching):
    caching(256, 100)
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,), dtype="int64"), keras.layers.Embedding(50, 6)])
        model.compile(keras.optimizers.SGD(0.1), loss="mse")
    data = tf.data.Dataset.from_tensors((np.arange(32).reshape(8, 4), np.zeros((8, 4, 6), "float32"))).repeat(20)
    with strategy.monitor.subscribe() as snapshots:
        before = snapshots.next(60).cache
        model.fit(data, verbose=0)
        now = snapshots.next(60)
        while now.steps < strategy.record.counts().steps:
            now = snapshots.next(60)
    asked, found, saved = (
        getattr(now.cache, name) - (getattr(before, name) if before else 0)
        for name in ("asked_rows", "found_rows", "saved_bytes")
    )
    # Only the first step requests its rows; a young model has one worker.
    assert (asked, found, saved) == (20 * 32, 19 * 32, 19 * 32 * (8 + 6 * 4))
    assert 0 <= now.cache.hit_rate <= 1
