"""What is said of windows that drive each other apart."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.training.test_skip_gram import Tally
from tfps.training.geo import drift
from tfps.training.geo.drift import Drift, Runaway


def epoch(norm, steps, conflicting=0.6, windows=10.0):
    """Of windows of so many steps, each of which moved its rows that far."""
    return Drift(norm**2 * windows, 100 * conflicting, 100.0, windows, steps * windows)


def not_looked(norm, steps, windows=10.0):
    """The same, where nobody asked what others had moved."""
    return Drift(norm**2 * windows, 0.0, 0.0, windows, steps * windows)


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        ([epoch(4.9, 3.5), epoch(29.0, 10.0)], True),  # SkipGram, 8 workers, when they ran away
        ([epoch(4.2, 7.0), epoch(24.7, 20.0, 0.47)], True),  # the same with 4
        ([epoch(2.2, 1.2), epoch(2.8, 2.6)], False),  # and when it learnt
        ([epoch(1.0, 1.0), epoch(40.0, 40.0)], False),  # longer windows, all of whose steps go one way
        ([epoch(1.0, 10.0), epoch(9.0, 10.0, 0.1)], False),  # nobody else was there
        ([not_looked(1.0, 10.0), not_looked(9.0, 10.0)], True),  # "sum" and "mean" look at no conflicts
        ([Drift(), epoch(29.0, 10.0)], False),  # nothing to compare it with
    ],
)
def test_steps_that_move_rows_ever_further_are_named(caplog, epochs, said):
    runaway = Runaway()
    for one in [*epochs, epochs[-1]]:
        runaway.compare(one)
    assert [record.getMessage().startswith("GEO: a step now moves") for record in caplog.records] == [True] * said


class Growing(Tally):
    """Each worker moves the rows of all others ten times as far as in the epoch before."""

    def __init__(self):
        super().__init__()
        self.factor = self.add_weight(shape=(), initializer="ones", trainable=False)

    def train_window(self, batches, rows, steps):
        (deltas,), logs = super().train_window(batches, rows, steps)
        return [deltas * tf.convert_to_tensor(self.factor)], logs


def test_a_fit_that_runs_away_says_so(strategy, caplog, monkeypatch):
    monkeypatch.setattr(drift, "_CONFLICTING", 0.0)  # whether two windows are under way at once is left to chance
    with strategy.scope():
        model = Growing()
        model.compile(tfps.optimizers.Geo("sgd", push_every=5))
    model.optimizer.iterations.assign(1_000_000)  # an old model, which all workers train at once
    faster = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: model.factor.assign(10.0 ** (epoch + 1)))
    ids = np.arange(50).repeat(16)
    with caplog.at_level(logging.WARNING, "tfps"):
        history = model.fit(ids, ids, batch_size=8, epochs=3, callbacks=[faster], verbose=0).history
    assert history["geo_delta_norm"][2] > 5 * history["geo_delta_norm"][1] > 25 * history["geo_delta_norm"][0]
    (said,) = [record.getMessage() for record in caplog.records if "run away" in record.getMessage()]
    assert "lower `push_every`" in said and "of them by the time it ended" in said
