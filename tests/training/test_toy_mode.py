"""A mode of training in one file: nothing of tfps is edited for it, and it does all that a mode of tfps does.

It trains like asynchronous training, but with every gradient multiplied by a factor, with one closure a worker under
way, and with the number of an epoch's closures in its logs.
"""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfps.errors import UnsupportedError
from tfps.keras.geo import geo
from tfps.keras.modes import ModeOptimizer, ModeSettings, get_optimizer, with_mode
from tfps.runtime.losses import WorkerLostError
from tfps.training.paced_schedules import make_paced_schedule
from tfps.training.pacing import Pace, SteadyPacing
from tfps.training.push_ids import PushLedgers
from tfps.training.steady_mode import SteadyMode
from tfps.training.step_loop import StepLoop

ROWS, SIZE, BATCHES = 40, 8, 48


class DampedClosure(StepLoop):
    """Steps with their pushes, and a measurement of 1, so that an epoch's sum is the number of its closures."""

    measures = 1

    def __init__(self, program, turn, ledgers):
        super().__init__(program, turn, prefetches=False)
        self._ledgers = ledgers

    def over_iterator(self, source, order):
        exchange, copies = self._pull(order)
        turns, state = self._loop(source, order, copies, lambda done: self._ledgers.ids(order, done).rows)
        state = turns.train(state, order.steps)
        exchange.push(self._ledgers.ids(order, state["done"]).dense)
        return self._result(copies, state["done"], state["logs"], tf.ones([1]))

    def over_batches(self, batches, order):
        exchange, copies = self._pull(order)
        logs = self._run_each(batches, copies, lambda done: self._ledgers.ids(order, done).rows)
        exchange.push(self._ledgers.ids(order, len(batches)).dense)
        return self._result(copies, tf.constant(len(batches), tf.int64), logs, tf.ones([1]))


class OneAtATime(SteadyPacing):
    """No closure waits behind the one that runs."""

    def may_begin(self, shard, progress):
        return not progress.under_way[shard]


class Damped(SteadyMode):
    """The mode."""

    applies_updates = True

    def __init__(self, strategy, steps):
        super().__init__(strategy, steps)
        self._ledgers = PushLedgers(strategy)

    def closure(self, program, turn):
        return DampedClosure(program, turn, self._ledgers)

    def schedule(self, runner, epoch):
        pace = Pace(self._strategy.num_workers, self._steps_for(epoch.source.num_batches))
        return make_paced_schedule(runner, epoch, OneAtATime(pace, 1, lambda: 1), self.closure_steps)

    def epoch_logs(self, totals, ended):
        return {"closures": sum(totals.measured)}


class DampedOptimizer(ModeOptimizer):
    """An optimizer that gets a part of each gradient."""

    def apply(self, grads, trainable_variables=None):
        super().apply([_times(self.tfps_mode.factor, gradient) for gradient in grads], trainable_variables)


@dataclasses.dataclass(frozen=True)
class DampedMode(ModeSettings):
    """The settings of the mode."""

    prefix = "Damped"
    mixin = DampedOptimizer

    factor: float = 0.5

    def make_mode(self, steps):
        return Damped(steps.strategy, steps.closure_steps)


def damped(optimizer, factor=0.5):
    """What a user would call: puts an optimizer into the mode."""
    return with_mode(get_optimizer(optimizer), DampedMode(factor))


def _times(factor, gradient):
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values * factor, gradient.indices, gradient.dense_shape)
    return gradient * factor


def model_of(strategy, optimizer):
    """Adds up how often each id was seen: the gradient of every element is -1, whatever the weights."""
    with strategy.scope():
        table = keras.layers.Embedding(ROWS, 4, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((2,), dtype="int64"), table])
        model.compile(optimizer, lambda y, rows: -keras.ops.sum(rows))
    return model


IDS = np.random.default_rng(3).integers(0, ROWS, (BATCHES * SIZE, 2))
LABELS = np.zeros((BATCHES * SIZE, 2, 4), np.float32)


def fed():
    """The same batches, read by the chief."""
    spec = (tf.TensorSpec((SIZE, 2), tf.int64), tf.TensorSpec((SIZE, 2, 4), tf.float32))
    batches = zip(np.split(IDS, BATCHES), np.split(LABELS, BATCHES), strict=True)
    return tf.data.Dataset.from_generator(lambda given=list(batches): given, output_signature=spec)


def assert_counted(model, epochs, factor=0.5, rest=()):
    """Each id has moved its row by the factor, once for each time it was seen."""
    seen = epochs * np.bincount(IDS.reshape(-1), minlength=ROWS) + np.bincount(
        np.ravel(rest).astype(int), minlength=ROWS
    )
    np.testing.assert_array_equal(model.get_weights()[0], np.repeat(factor * seen[:, None], 4, 1))


@pytest.mark.parametrize("from_chief", [False, True], ids=["shipped", "fed"])
def test_it_fits_and_evaluates(strategy, from_chief):
    model = model_of(strategy, damped(keras.optimizers.SGD(1.0)))
    given = (fed(),) if from_chief else (IDS, LABELS)
    history = model.fit(*given, batch_size=None if from_chief else SIZE, epochs=2, verbose=0)
    assert_counted(model, 2)
    assert int(model.optimizer.iterations) == 2 * BATCHES
    assert all(strategy.num_workers <= closures <= BATCHES for closures in history.history["closures"])
    logs = model.evaluate(IDS, LABELS, batch_size=SIZE, verbose=0, return_dict=True)
    rows = model.get_weights()[0]
    assert logs == {"loss": pytest.approx(-rows[IDS].sum() / BATCHES, rel=1e-5)}


def test_it_trains_on_a_batch(strategy):
    model = model_of(strategy, damped("sgd", factor=0.25))
    model.optimizer.learning_rate = 2.0
    model.train_on_batch(IDS[:SIZE], LABELS[:SIZE])
    assert_counted(model, 0, 2.0 * 0.25, rest=IDS[:SIZE])


def test_a_lost_closure_is_made_again_and_counts_once(strategy, monkeypatch):
    """A worker has pushed all of a closure when its answer is lost: servers know the pushes of the repeat."""
    call, closures, lost = strategy.pool.call, [], []

    def call_or_lose(worker, function):
        result = call(worker, function)
        if isinstance(result, np.ndarray):
            closures.append(worker)
            if len(closures) == 5:
                lost.append(worker)
                raise WorkerLostError(f"worker {worker} is gone", ("worker", worker))
        return result

    monkeypatch.setattr(strategy.pool, "call", call_or_lose)
    model = model_of(strategy, damped(keras.optimizers.SGD(1.0)))
    model.fit(IDS, LABELS, batch_size=SIZE, shuffle=False, verbose=0)
    assert len(lost) == 1
    assert_counted(model, 1)
    assert int(model.optimizer.iterations) == BATCHES


def test_one_closure_a_worker_is_under_way(strategy, monkeypatch):
    under_way, submit = [], Damped.schedule

    def schedule(self, runner, epoch):
        made = submit(self, runner, epoch)
        begin = made.progress.begin
        made.progress.begin = lambda shard: (begin(shard), under_way.append(made.progress.under_way[shard]))
        return made

    monkeypatch.setattr(Damped, "schedule", schedule)
    model_of(strategy, damped("sgd")).fit(IDS, LABELS, batch_size=SIZE, verbose=0)
    assert set(under_way) == {1}


def test_its_settings_are_saved(strategy, tmp_path):
    model = model_of(strategy, damped(keras.optimizers.Adagrad(1.0), factor=0.125))
    model.fit(IDS, LABELS, batch_size=SIZE, verbose=0)
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(model.optimizer))
    assert isinstance(optimizer, keras.optimizers.Adagrad) and optimizer.tfps_mode == DampedMode(0.125)
    model.compile(damped(keras.optimizers.SGD(1.0)), "mse")
    model.fit(IDS, LABELS, batch_size=SIZE, verbose=0)
    model.save(tmp_path / "model.keras")
    with strategy.scope():
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.tfps_mode == DampedMode(0.5) and type(loaded.optimizer) is type(model.optimizer)
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "closures" in loaded.fit(IDS, LABELS, batch_size=SIZE, verbose=0).history
    assert int(loaded.optimizer.iterations) == 2 * BATCHES


def test_an_optimizer_has_one_mode():
    with pytest.raises(UnsupportedError, match="in mode Damped.*into mode Geo. Received: DampedSGD"):
        geo(damped("sgd"))
