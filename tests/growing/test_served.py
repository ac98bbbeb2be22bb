"""A follower keeps up with a table that grows: it has the rows that are there, and none that has gone."""

import keras
import numpy as np
import tensorflow as tf

import tfps
from tests.growing.models import counter, counts_of, rows_of


def follow(strategy, folder, ids, **growth):
    model = counter(strategy, **growth)
    data = tf.data.Dataset.from_tensor_slices((ids.reshape(-1, 2), np.zeros(ids.size // 2))).batch(10)
    follower = tfps.serving.Follower(str(folder))
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch % 50 == 49:
                seen.extend(follower.update())

    export = tfps.callbacks.Export(str(folder), every_s=0.3, full_every=1000)
    model.fit(data, shuffle=False, verbose=0, callbacks=[export, Look()])
    seen.extend(follower.update())
    return model, follower, seen


def test_a_follower_has_every_row(strategy, tmp_path):
    ids = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 4000)
    ids[2000:2400] = ids[:400]
    model, follower, seen = follow(strategy, tmp_path / "out", ids)
    expected = counts_of(ids)
    assert follower.ids("counts").tolist() == sorted(expected) and len(seen) >= 2
    rows, found = follower.lookup("counts", np.array(list(expected)))
    assert found.all() and (-rows[:, 0]).tolist() == list(expected.values())
    assert follower.lookup("counts", [12345])[1].tolist() == [False]
    assert len(rows_of(model.get_layer("counts"))) == len(expected)


def test_evicted_rows_leave_the_follower(strategy, tmp_path):
    growth = {"max_rows": 300, "eviction": tfps.eviction.LeastRecent()}
    ids = np.random.default_rng(1).integers(0, 2**62, 12_000)
    model, follower, seen = follow(strategy, tmp_path / "out", ids, **growth)
    expected = rows_of(model.get_layer("counts"))
    assert len(expected) <= 300 and len(seen) >= 2
    assert follower.ids("counts").tolist() == sorted(expected)
    rows, found = follower.lookup("counts", sorted(expected))
    assert found.all() and rows[:, 0].tolist() == [expected[one][0] for one in sorted(expected)]
