"""`gradient_accumulation_steps`: right, or refused by name."""

import contextlib

import keras
import numpy as np
import pytest

import tfps
from tfps.errors import UnsupportedError

X = np.random.default_rng(0).normal(size=(80, 3)).astype("float32")
Y = X.sum(1, keepdims=True)
MODES = {"async": lambda given: given, "geo": tfps.optimizers.Geo, "sync": tfps.optimizers.Sync}


def train(strategy, mode, kind=keras.optimizers.Adam):
    keras.utils.set_random_seed(2)
    optimizer = kind(0.05, gradient_accumulation_steps=3)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
        model.compile(MODES[mode](optimizer) if strategy else optimizer, "mse")
    # 10 batches an epoch, so that what is accumulated goes on from one epoch to the next.
    model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize("mode", list(MODES))
def test_one_worker_accumulates_as_one_process_does(one_worker, mode):
    for ours, theirs in zip(train(one_worker, mode), train(None, mode), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("dense", ["exchange", "allreduce"])
def test_workers_in_step_accumulate_the_gradients_of_the_joined_batch(strategy, monkeypatch, dense):
    monkeypatch.setattr(strategy, "dense", dense)
    wrap = tfps.optimizers.Sync if dense == "exchange" else lambda optimizer: optimizer

    def double(strategy):
        keras.utils.set_random_seed(2)
        optimizer = keras.optimizers.SGD(0.05, gradient_accumulation_steps=3)
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            model.compile(wrap(optimizer) if strategy else optimizer, "mse")
        model.fit(X, Y, batch_size=8 if strategy else 16, epochs=3, shuffle=False, verbose=0)
        return model.get_weights()[0]

    np.testing.assert_allclose(double(strategy), double(None), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["async", "geo"])
def test_several_workers_that_update_by_themselves_are_refused(strategy, mode):
    with pytest.raises(UnsupportedError, match=r"gradient_accumulation_steps.*2 workers.*Sync"):
        train(strategy, mode)


def test_a_table_is_refused(strategy):
    with strategy.scope():
        model = keras.Sequential([keras.Input((), dtype="int64"), keras.layers.Embedding(10, 1)])
        for mode in MODES.values():
            with pytest.raises(UnsupportedError, match=r"gradient_accumulation_steps.*table"):
                model.compile(mode(keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)), "mse")
