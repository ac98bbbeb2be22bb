"""SIGTERM and Ctrl-C in the middle of `fit`: after the step with a save, at once the second time."""

import os
import signal

import keras
import numpy as np
import pytest

from tfps import jobs
from tfps.runtime import stop_signals
from tfps.runtime.stop_signals import StopSignals


@pytest.mark.parametrize(
    ("number", "ends_with"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)], ids=["term", "ctrl-c"]
)
def test_the_first_signal_saves_after_the_step(number, ends_with):
    signals, done = StopSignals(), []
    signals.register(lambda: done.append("saved"))
    before = signal.getsignal(number)
    with pytest.raises(ends_with) as caught, signals.handled():
        os.kill(os.getpid(), number)
        done.append("step")
        assert signals.asked
    assert done == ["step", "saved"] and not signals.asked and signal.getsignal(number) is before
    assert number != signal.SIGTERM or caught.value.code == jobs.PREEMPTED


@pytest.mark.parametrize("saver", [None, lambda: None], ids=["without a saver", "the second time"])
def test_it_ends_at_once(saver):
    signals = StopSignals()
    signals.register(saver)
    with pytest.raises(KeyboardInterrupt), signals.handled():
        if saver is not None:
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the signal was ignored")


def test_the_grace_has_an_end(monkeypatch):
    monkeypatch.setenv("TFPS_GRACE_S", "0.05")
    statuses = []
    monkeypatch.setattr(stop_signals.os, "_exit", statuses.append)
    signals = StopSignals()
    signals.register(lambda: signals._timer.join())
    with pytest.raises(SystemExit), signals.handled():
        os.kill(os.getpid(), signal.SIGTERM)
    assert statuses == [jobs.PREEMPTED]


def test_fit_ends_after_the_step(strategy, monkeypatch):
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    seen, saved = [], []

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)
            if batch == 3:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(strategy.stop_signals, "saver", lambda: saved.append(int(model.optimizer.iterations)))
    with pytest.raises(KeyboardInterrupt):
        model.fit(np.ones((800, 2)), np.ones((800, 1)), batch_size=8, epochs=3, verbose=0, callbacks=[Interrupt()])
    # Closures under way end, and their steps are trained and saved.
    assert seen[:4] == [0, 1, 2, 3] and len(seen) <= 5 and saved == [int(model.optimizer.iterations)]
