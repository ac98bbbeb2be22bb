"""Several steps in one call give what one step a call gives, and go only as far as the callbacks allow."""

import gc
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.replicas.small_model import build, clicks, difference, log_difference, state_of
from tfps.keras.batch_callbacks import Lookahead
from tfps.keras.replicas import functions
from tfps.replicas import iterators

BATCH = 2
STEPS = 83  # of 165 examples; the last one has one


class Counting(keras.callbacks.Callback):
    """Does nothing that a step could depend on, so steps may run ahead of it."""


class Reading(keras.callbacks.Callback):
    """Reads the logs of each batch, so each step has a call of its own."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))


@pytest.fixture
def calls(monkeypatch):
    """The numbers of steps of each call of a graph of several steps, which takes as many as are wished."""
    taken = []
    stock = functions._Graphs.take_steps

    def take_steps(graphs, iterator, steps):
        done, logs = stock(graphs, iterator, steps)
        taken.append(done)
        return done, logs

    monkeypatch.setattr(functions._Graphs, "take_steps", take_steps)
    monkeypatch.setattr(functions, "_CALL_S", 20.0)
    return taken


def batches():
    (ids, dense), y = clicks()
    return tf.data.Dataset.from_tensor_slices(((ids, dense), y)).batch(BATCH)


INPUTS = {
    "arrays": lambda: ({"x": clicks()[0], "y": clicks()[1], "batch_size": BATCH, "shuffle": False}, STEPS),
    "known": lambda: ({"x": batches()}, STEPS),
    "unknown": lambda: ({"x": batches().filter(lambda x, y: True)}, STEPS),
    "endless": lambda: ({"x": batches().repeat(), "steps_per_epoch": 30}, 30),
    "too short": lambda: ({"x": batches(), "steps_per_epoch": 60}, 60),
}


def trained(data, callback, **compiled):
    with tfps.OneDeviceStrategy("CPU:0", dense_tables_bytes=0).scope():
        model = build(keras.optimizers.Adam(0.01), dropout=0.3, **compiled)
    history = model.fit(**data, epochs=2, verbose=0, callbacks=[callback]).history
    return model, history


@pytest.mark.filterwarnings("ignore:Your input ran out of data", "ignore:`shuffle=True` was passed")
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_ahead_is_step_by_step(calls, kind, steps_per_execution):
    data, steps = INPUTS[kind]()
    model, history = trained(data, Counting(), steps_per_execution=steps_per_execution)
    assert max(calls) > 16
    ahead = len(calls)
    expected, logs = trained(data, Reading(), steps_per_execution=steps_per_execution)
    assert len(calls) == ahead
    assert difference(state_of(expected), state_of(model)) == 0
    assert log_difference(logs, history) == 0
    if steps_per_execution == 1 and kind != "too short":
        assert int(model.optimizer.iterations) == 2 * steps


def test_evaluation_runs_ahead(calls):
    x, y = clicks()
    with tfps.OneDeviceStrategy("CPU:0").scope():
        model = build("adam")
    logs = model.evaluate(x, y, batch_size=BATCH, verbose=0)
    assert sum(calls) == STEPS and len(calls) < 20
    plain = build("adam")
    np.testing.assert_allclose(logs, plain.evaluate(x, y, batch_size=BATCH, verbose=0), atol=2e-6)


def test_an_input_that_stalls_ends_a_call(calls, monkeypatch):
    monkeypatch.setattr(functions, "_CALL_S", 0.05)

    def wait(number):
        time.sleep(0.2 * (number >= 40))
        return number

    data = tf.data.Dataset.range(46).map(lambda number: tf.numpy_function(wait, [number], tf.int64))
    with tfps.OneDeviceStrategy("CPU:0").scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    data = data.map(lambda number: (tf.ones([2, 1]), tf.ones([2])))
    model.fit(data, verbose=0)
    # A stop that a user asks for has to wait for one batch, not for all.
    assert sum(calls) == 46 and max(calls[-3:]) <= 2


def test_a_save_within_an_epoch_is_of_its_step(tmp_path):
    seen = []

    class Saved(keras.callbacks.ModelCheckpoint):
        def _save_model(self, *args, **kwargs):
            seen.append(int(self.model.optimizer.iterations))
            super()._save_model(*args, **kwargs)

    trained({"x": batches()}, Saved(str(tmp_path / "{batch}.weights.h5"), save_freq=25, save_weights_only=True))
    assert seen == [25, 50, 75, 100, 125, 150]


def test_a_callback_that_stops_the_training_stops_it_at_its_batch():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 9:
                self.model.stop_training = True

    model, _ = trained({"x": batches()}, Stop())
    assert int(model.optimizer.iterations) == 10


class Bar(keras.callbacks.ProgbarLogger):
    """A progress bar that keeps the logs of each batch."""

    def on_train_batch_end(self, batch, logs=None):
        self.kept = logs


def test_callbacks_in_any_form_are_found():
    model = build("adam")
    listed = keras.callbacks.CallbackList([Reading()], model=model)
    for given in (Reading(), {"one": Reading()}, [{"more": (Reading(),)}], listed, Bar()):
        assert Lookahead(given, model).reads_logs
    for given in (None, Counting(), {"one": keras.callbacks.ProgbarLogger()}):
        assert not Lookahead(given, model).reads_logs


def test_a_loop_of_ones_own_takes_one_step_a_call():
    with tfps.OneDeviceStrategy("CPU:0").scope():
        model = build("adam")
    iterator = iter(batches())
    step = model.make_train_function()
    for done in range(1, 5):
        step(iterator)
        assert int(model.optimizer.iterations) == done


def test_logs_that_are_no_tensors_have_one_step_a_call():
    class Silent(keras.Model):
        def train_step(self, data):
            super().train_step(data)
            return {"loss": self._loss_tracker.result(), "nothing": None}

    with tfps.OneDeviceStrategy("CPU:0").scope():
        plain = build("adam")
        model = Silent(plain.inputs, plain.outputs)
        model.compile("adam", "binary_crossentropy")
    model.fit(batches(), verbose=0)
    assert int(model.optimizer.iterations) == STEPS


def test_run_eagerly_may_change_without_compile():
    with tfps.OneDeviceStrategy("CPU:0").scope():
        model = build("adam")
    x, y = clicks()
    model.fit(x, y, verbose=0)
    eager = []
    model.run_eagerly = True
    stock = model.train_step
    model.train_step = lambda data: (eager.append(tf.executing_eagerly()), stock(data))[1]
    model.fit(x, y, verbose=0, epochs=1)
    assert eager and all(eager)


def test_iterators_are_freed_in_the_background(monkeypatch):
    # The thread waits for the test, not for a time: how long `fit` takes must not matter.
    gate = threading.Event()
    monkeypatch.setattr(iterators.time, "sleep", lambda seconds: gate.wait(60))
    made, ended = [], []

    def examples():
        made.append(None)
        try:
            while True:
                yield 1.0
        finally:
            ended.append(None)

    with tfps.OneDeviceStrategy("CPU:0").scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    data = tf.data.Dataset.from_generator(examples, output_signature=tf.TensorSpec([])).batch(4)
    model.fit(data.map(lambda x: (x[:, None], x)), steps_per_epoch=5, verbose=0)
    gc.collect()
    # Dropped by `fit`, but only the thread frees them.
    assert made
    assert not ended
    gate.set()
    deadline = time.monotonic() + 30
    while len(ended) < len(made) or any(thread.name == "tfps-free-iterator" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
