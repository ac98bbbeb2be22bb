"""Tables that grow: a follower has the rows that are stored, and none of those that were evicted."""

import time

import keras
import numpy as np
import pytest

import tfps
from tfps.callbacks import Export
from tfps.serving import Follower

EXAMPLES = 10_000


class Wait(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.01)


@pytest.mark.parametrize("max_rows", [None, 1000])
def test_a_follower_has_the_rows_that_are_stored(strategy, tmp_path, max_rows):
    rng = np.random.default_rng(0)
    with strategy.scope():
        eviction = None if max_rows is None else tfps.eviction.LeastRecent()
        table = tfps.layers.DynamicEmbedding(4, eviction=eviction, max_rows=max_rows, name="grows")
        layers = [keras.Input((2,), dtype="int64"), table, keras.layers.Flatten(), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile("adagrad", "mse")
    # Ids of both signs, which drift: old ones do not come again.
    ids = (np.arange(EXAMPLES) // 10)[:, np.newaxis] * 7919 - rng.integers(0, 400, (EXAMPLES, 2)) * 10**12
    export = Export(tmp_path, every_s=0.2, full_every=4)
    with Follower(tmp_path, poll_s=0.02, on_gap="raise") as follower:
        model.fit(ids, np.ones((EXAMPLES, 1)), batch_size=100, verbose=0, callbacks=[export, Wait()])
    follower.update()
    stored = {
        int(one): row
        for chunk in table.embeddings._value.scan()
        for one, row in zip(np.asarray(chunk.ids), chunk.rows.numpy(), strict=True)
    }
    # Those of most batches have gone where there is a limit.
    assert len(stored) == (max_rows or len(np.unique(ids)))
    begun = Follower(tmp_path, on_gap="raise")
    begun.update()
    for one in (follower, begun):
        np.testing.assert_array_equal(one.ids("grows"), sorted(stored))
        rows, found = one.lookup("grows", sorted(stored))
        assert found.all()
        np.testing.assert_array_equal(rows, [stored[key] for key in sorted(stored)])
    assert follower.version >= 3
