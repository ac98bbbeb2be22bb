"""What callbacks do between two batches: it takes effect at the next batch, and what they save is what they saw."""

import contextlib
import functools
import inspect
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.keras import epoch_logs
from tfps.keras.batch_callbacks import Lookahead, acts_on_batches

BATCHES = 24
# The default merge would cap what two workers add to one weight at the same time, and these tests count it.
GEO = functools.partial(tfps.optimizers.Geo, merge="sum")
MODES = {"async": lambda given: given, "geo": GEO, "sync": tfps.optimizers.Sync}


def here(strategy):
    return strategy.scope() if strategy else contextlib.nullcontext()


def data(batches=BATCHES, fed=False):
    """Each batch moves the weight by the learning rate."""

    def generate():
        for _ in range(batches):
            yield np.ones((2, 1), "float32"), np.zeros((2, 1), "float32")

    made = tf.data.Dataset.from_tensors((tf.ones((2, 1)), tf.zeros((2, 1)))).repeat(batches)
    spec = (tf.TensorSpec((2, 1)), tf.TensorSpec((2, 1)))
    return tf.data.Dataset.from_generator(generate, output_signature=spec) if fed else made


def make(strategy, mode="async", rate=0.0):
    with here(strategy):
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        model = keras.Sequential([keras.Input((1,)), layer])
        optimizer = keras.optimizers.SGD(rate)
        model.compile(MODES[mode](optimizer) if strategy else optimizer, lambda y, found: -keras.ops.mean(found))
    return model


class Examples(keras.metrics.Sum):
    """Counts examples."""

    def update_state(self, y, found, sample_weight=None):
        super().update_state(keras.ops.ones_like(found))


class RateFrom(keras.callbacks.Callback):
    """Trains at the rate 1 from a batch on."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.batch:
            self.model.optimizer.learning_rate = 1.0


@pytest.mark.parametrize("fed", [False, True], ids=["shipped", "fed"])
@pytest.mark.parametrize("mode", ["async", "geo", "sync"])
def test_a_rate_that_is_set_holds_from_the_next_batch_on(one_worker, mode, fed):
    model = make(one_worker, mode)
    model.fit(data(fed=fed), verbose=0, callbacks=[RateFrom(10)])
    assert model.get_weights()[0].item() == pytest.approx(BATCHES - 10)


@pytest.mark.parametrize("mode", ["async", "geo"])
def test_with_more_workers_it_holds_at_most_a_batch_of_each_other_worker_later(strategy, mode, caplog):
    model = make(strategy, mode)
    with caplog.at_level(logging.WARNING, "tfps"):
        model.fit(data(), verbose=0, callbacks=[RateFrom(10)])
    assert "RateFrom may change or read the model after each batch" in caplog.text
    # A young model is trained by one worker alone, and no other has begun a batch.
    assert (weight := model.get_weights()[0].item()) == BATCHES - 10
    model.optimizer.learning_rate = 0.0
    model.optimizer.iterations.assign(1_000_000)
    model.fit(data(), verbose=0, callbacks=[RateFrom(10)])
    # Of the batches, those from 11 on have it, and batch 10 has it unless the other worker had begun it.
    assert BATCHES - 11 <= model.get_weights()[0].item() - weight <= BATCHES - 10


def test_training_stops_with_the_batch_that_stops_it(one_worker):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 4

    model = make(one_worker, rate=1.0)
    model.fit(data(), verbose=0, callbacks=[Stop()])
    assert int(model.optimizer.iterations) == 5 and model.get_weights()[0].item() == 5


def test_an_evaluation_has_the_batches_before_the_one_that_stops_it(strategy):
    class Stop(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            seen.append(logs["sum"])
            self.model.stop_evaluating = batch == 3

    seen = []
    with strategy.scope():
        model = make(strategy)
        model.compile("sgd", "mse", metrics=[Examples(name="sum")])
    found = model.evaluate(data(), verbose=0, callbacks=[Stop()], return_dict=True)
    assert found["sum"] == 8 and seen == [2, 4, 6, 8]
    assert model.evaluate(data(), verbose=0, return_dict=True)["sum"] == 2 * BATCHES


class Interrupt(keras.callbacks.Callback):
    """Stands for a chief that is killed after a batch."""

    def __init__(self, batch):
        super().__init__()
        self.seen, self.batch = 0, batch

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        if self.seen == self.batch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("mode", ["async", "geo"])
def test_a_backup_within_an_epoch_has_the_batches_before_it_and_no_others(strategy, tmp_path, mode):
    def train(strategy):
        saved = functools.partial(keras.callbacks.BackupAndRestore, tmp_path / str(strategy is None), save_freq=3)
        model = make(strategy, mode, rate=1.0)
        with pytest.raises(KeyboardInterrupt):
            model.fit(data(8), epochs=3, verbose=0, callbacks=[saved(), Interrupt(14)])
        again = make(strategy, mode, rate=1.0)
        again.fit(data(8), epochs=3, verbose=0, callbacks=[saved()])
        return int(again.optimizer.iterations), again.get_weights()[0].item()

    assert train(strategy) == train(None)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_checkpoint_within_an_epoch_has_the_batches_before_it(strategy, tmp_path, steps):
    def saved(strategy):
        model = make(strategy, rate=1.0)
        model.steps_per_execution = steps
        folder = tmp_path / str(strategy is None)
        callback = keras.callbacks.ModelCheckpoint(folder / "{batch}.weights.h5", save_weights_only=True, save_freq=8)
        model.fit(data(), verbose=0, callbacks=[callback])
        weights = {}
        for file in folder.iterdir():
            model.load_weights(file)
            weights[int(file.name.split(".")[0])] = model.get_weights()[0].item()
        return weights

    found = saved(strategy)
    # Keras before 3.9 counts the batches up to the first one of an execution.
    assert len(found) >= 2 and found == saved(None)
    assert steps > 1 or all(batch == weight for batch, weight in found.items())


def test_every_callback_that_saves_within_an_epoch_has_the_batches_before_it(strategy):
    kinds = [kind for _, kind in inspect.getmembers(keras.callbacks, inspect.isclass)]
    saving = [kind for kind in kinds if "save_freq" in inspect.signature(kind).parameters]
    assert keras.callbacks.ModelCheckpoint in saving
    model = make(strategy)
    for kind in saving:
        # The constructor of OrbaxCheckpoint needs another package.
        callback = kind.__new__(kind)
        callback.save_freq, callback._batches_seen_since_last_saving = 8, 3
        assert Lookahead(callback, model).steps(workers=2) == 5


def test_a_callback_that_only_counts_or_reports_holds_nobody_up(strategy):
    class Times(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seen = []

        def on_train_batch_end(self, batch, logs=None):
            self.note(logs)

        def note(self, logs):
            self.seen.append(dict(logs or {}))

    class Holds(Times):
        def __init__(self, rate):
            super().__init__()
            self.rate = rate

        def note(self, logs):
            self.rate.assign(0.5)

    class Calls(Times):
        def note(self, logs):
            change(self)

    class Saves(keras.callbacks.ModelCheckpoint):
        def on_train_batch_end(self, batch, logs=None):
            self._save_model(0, batch, logs)

    def change(callback):
        callback.model.stop_training = True

    class Tests(keras.callbacks.Callback):
        def on_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    Tests.on_batch_end.__module__ = "keras.src.callbacks.callback_test"

    model = make(strategy)
    reports = [Times(), keras.callbacks.ProgbarLogger(), keras.callbacks.History(), keras.callbacks.TerminateOnNaN()]
    reports.append(keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: reports))
    acts = [RateFrom(1), Holds(model.optimizer.learning_rate), Calls(), Saves("x.keras"), Tests()]
    acts.append(keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: model.stop_training))
    assert [acts_on_batches(one) for one in reports] == [False] * len(reports)
    assert [acts_on_batches(one) for one in acts] == [True] * len(acts)


def test_no_logs_are_computed_for_callbacks_that_only_count_batches(strategy):
    class Saves(keras.callbacks.ModelCheckpoint):
        def on_train_batch_end(self, batch, logs=None):
            self._save_model(0, batch, logs)

    kinds, model = keras.callbacks, make(strategy)
    counts = [kinds.ModelCheckpoint("x.keras"), kinds.BackupAndRestore("x"), kinds.TensorBoard("x"), kinds.History()]
    assert not Lookahead(counts, model).reads_logs
    reads = [kinds.ModelCheckpoint("x.keras", save_freq=2), kinds.TensorBoard("x", update_freq="batch")]
    reads += [kinds.TerminateOnNaN(), Saves("x.keras"), Seen()]
    assert all(Lookahead(one, model).reads_logs for one in reads)


class Seen(keras.callbacks.Callback):
    """Notes the losses that it is given."""

    def __init__(self):
        super().__init__()
        self.trained, self.tested, self.epochs = [], [], []

    def on_batch_end(self, batch, logs=None):
        self.trained.append(logs["loss"])

    def on_test_batch_end(self, batch, logs=None):
        self.tested.append(logs["loss"])

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append((logs["loss"], logs["val_loss"]))


@pytest.fixture
def lazy_logs(monkeypatch):
    """Logs that nobody reads are computed once an epoch."""
    monkeypatch.setattr(epoch_logs, "_LOGS_EVERY_S", 1e9)


def losses_of(strategy, mode="async"):
    """Trains and evaluates with losses that grow from batch to batch."""
    model, seen = make(strategy, mode, rate=1.0), Seen()
    model.fit(data(8), validation_data=data(3), epochs=2, verbose=0, callbacks=[seen])
    model.evaluate(data(3), verbose=0, callbacks=[seen])
    return seen


def test_with_one_worker_the_logs_of_a_batch_are_those_of_one_process(one_worker, lazy_logs):
    ours, theirs = losses_of(one_worker), losses_of(None)
    for name in ("trained", "tested", "epochs"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-6)


@pytest.mark.parametrize("mode", ["async", "geo", "sync"])
def test_the_last_batch_has_the_logs_of_the_epoch(strategy, lazy_logs, mode):
    seen = losses_of(strategy, mode)
    trained = len(seen.trained) // 2
    assert (seen.trained[trained - 1], seen.tested[2]) == pytest.approx(seen.epochs[0])
    assert (seen.trained[-1], seen.tested[5]) == pytest.approx(seen.epochs[1]) and len(seen.tested) == 9


@pytest.mark.parametrize("mode", ["async", "geo", "sync"])
def test_a_loss_that_is_no_number_ends_the_training(strategy, lazy_logs, mode):
    x, y = np.ones((8, 1)), np.zeros((8, 1))
    x[-1] = np.inf
    model = make(strategy, mode)
    ends = keras.callbacks.TerminateOnNaN()
    history = model.fit(x, y, batch_size=1, epochs=2, shuffle=False, verbose=0, callbacks=[ends])
    assert len(history.history["loss"]) == 1


@pytest.mark.parametrize("mode", ["async", "geo", "sync"])
def test_train_on_batch_returns_what_the_step_returned(strategy, mode):
    model = make(strategy, mode, rate=1.0)
    loss = model.train_on_batch(np.ones((2, 1)), np.zeros((2, 1)))
    assert np.ndim(loss) == 0
    assert set(model.train_on_batch(np.ones((2, 1)), np.zeros((2, 1)), return_dict=True)) == {"loss"}
