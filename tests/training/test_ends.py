"""What is under way when an epoch ends, is interrupted, or is looked at: nothing of it changes the model afterwards."""

import _thread
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.training.test_geo import counter
from tfps.errors import IdRangeError, UnsupportedError
from tfps.training import paced_schedules
from tfps.training.geo.pacing import MOST_MISSED


def slow(batches, turns=lambda i: 20):
    """One id a batch, which takes the worker that reads it `turns` products of matrices, about half a ms each."""

    def work(i):
        number, product = tf.while_loop(
            lambda k, _: k < turns(i), lambda k, a: (k + 1, a @ a / 200), (0, tf.ones([200, 200]))
        )
        return tf.fill([1, 2], i % 60), tf.zeros([1, 2, 4]) + 0.0 * product[0, 0] * tf.cast(number, tf.float32)

    return tf.data.Dataset.range(batches).map(work)


def plain(strategy):
    """Rows count how often they were seen."""
    model = counter(strategy, push_every=1)
    with strategy.scope():
        model.compile(keras.optimizers.SGD(1.0), model.loss)
    return model


def counted(model):
    """How often rows were seen, in all."""
    return model.get_weights()[0].sum() / 4


class OnBatch(keras.callbacks.Callback):
    """Calls a function at the end of one batch."""

    def __init__(self, batch, run):
        super().__init__()
        self._batch, self._run = batch, run

    def on_train_batch_end(self, batch, logs=None):
        if batch == self._batch:
            self._run()


def test_an_evaluate_within_an_epoch_does_not_end_it_in_its_place(strategy):
    model = plain(strategy)

    def look():
        model.evaluate(slow(4), verbose=0)
        model.stop_training = True

    model.fit(slow(400), verbose=0, callbacks=[OnBatch(2, look)])
    before = int(model.optimizer.iterations)
    time.sleep(1.0)
    assert int(model.optimizer.iterations) == before and counted(model) == 2 * before


def test_what_is_read_within_an_epoch_is_of_whole_steps(strategy, tmp_path):
    model, seen = plain(strategy), []

    def look():
        seen.append((counted(model), 2 * int(model.optimizer.iterations)))
        model.save_weights(tmp_path / "within.weights.h5")

    history = model.fit(slow(300), verbose=0, callbacks=[OnBatch(20, look)])
    assert seen[0][0] == seen[0][1] >= 2 * 21
    assert counted(model) == 2 * 300 and history.epoch == [0]
    model.load_weights(tmp_path / "within.weights.h5")
    assert counted(model) == seen[0][0]


def test_a_failure_after_training_was_stopped_leaves_nothing_under_way(strategy, no_young):
    model = plain(strategy)

    def bad(ids, labels):
        return tf.where(ids == 1, tf.constant(7777, tf.int64), ids), labels  # fails the step of worker 1

    data = slow(200, lambda i: tf.where(i % 2 == 1, 400, 60)).map(bad)
    with pytest.raises(IdRangeError):
        model.fit(data, verbose=0, callbacks=[OnBatch(0, lambda: setattr(model, "stop_training", True))])
    before = counted(model)
    time.sleep(1.0)
    assert counted(model) == before


def test_a_fit_after_an_interrupt_waits_for_what_still_runs(strategy, monkeypatch):
    """Its closures would take the batches of the new epoch otherwise: workers know them by the same name."""
    monkeypatch.setattr("tfps.runtime.steps_under_way._GIVE_UP_S", 0.1)
    model = counter(strategy, push_every=100)
    model.optimizer.iterations.assign(1_000_000)
    model.fit(slow(2, lambda i: 0), verbose=0)
    ended = threading.Event()

    def interrupt():
        # Again after a second: Python drops an exception that comes while an object is collected.
        while not ended.wait(1.0):
            _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        try:
            threading.Thread(target=interrupt, daemon=True).start()
            model.fit(slow(400, lambda i: 60), verbose=0)
        finally:
            ended.set()
    seen = []
    model.fit(
        slow(401, lambda i: 0), verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=count(seen))]
    )
    assert len(seen) == 401
    assert counted(model) == 2 * (int(model.optimizer.iterations) - 1_000_000)


def count(seen):
    return lambda batch, logs=None: seen.append(batch)


def test_a_window_misses_a_bounded_number_of_others(strategy, monkeypatch):
    landed, order = paced_schedules.ShippedSchedule._on_result, []
    monkeypatch.setattr(
        paced_schedules.ShippedSchedule,
        "_on_result",
        lambda self, flight, result: (order.append(flight.order.shard), landed(self, flight, result)),
    )
    model = counter(strategy, push_every=2)
    model.optimizer.iterations.assign(1_000_000)
    model.fit(slow(160, lambda i: tf.where(i % 2 == 0, 200, 0)), verbose=0)
    own = [place for place, shard in enumerate(order) if shard == 0]
    between = [b - a - 1 for a, b in zip(own, own[1:], strict=False)]
    assert len(order) >= 80 and 2 < max(between) <= MOST_MISSED + 1


@pytest.mark.parametrize("overlap", [pytest.param(False, marks=pytest.mark.slow), True])
def test_another_mode_of_the_optimizer_makes_the_steps_anew(strategy, overlap):
    model = plain(strategy)
    model.fit(slow(10, lambda i: 0), verbose=0)
    tfps.optimizers.Geo(model.optimizer, push_every=2, overlap=overlap)
    assert "geo_delta_norm" in model.fit(slow(10, lambda i: 0), verbose=0).history
    tfps.optimizers.Geo(model.optimizer, push_every=2, overlap=not overlap)
    model.fit(slow(10, lambda i: 0), verbose=0)
    assert counted(model) == 2 * 30


def test_geo_of_a_model_without_a_table(strategy):
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="zeros", use_bias=False)])
        model.compile(tfps.optimizers.Geo(keras.optimizers.SGD(1.0), push_every=5, merge="sum"), lambda y, p: -p)
    model.fit(np.ones((400, 3)), np.zeros((400, 1)), batch_size=4, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0], 100.0)


def test_windows_of_the_chief_have_few_lengths(strategy):
    """They are traced for each."""
    # "cap" would take away from rows that two windows move at a time.
    model = counter(strategy, push_every=16, merge="sum")
    model.optimizer.iterations.assign(1_000_000)
    for batches in (70, 77, 83, 90):
        given = list(slow(batches, lambda i: 0))
        data = tf.data.Dataset.from_generator(lambda given=given: given, output_signature=slow(1).element_spec)
        model.fit(data, verbose=0)
    assert counted(model) == 2 * (70 + 77 + 83 + 90)
    assert len(model.train_function.closures.on_batches._list_all_concrete_functions()) <= 3  # of 1, 4 and 16


def test_hand_written_loops_refuse_optimizers_in_a_mode(strategy):
    with strategy.scope():
        table = keras.layers.Embedding(20, 4)
        table.build(None)
        optimizer = tfps.optimizers.Sync(keras.optimizers.SGD(1.0))
        optimizer.build(table.trainable_variables)

    @tf.function(autograph=False)
    def step(ids):
        def replica(ids):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(table(ids))
            (gradient,) = tape.gradient(loss, table.trainable_variables)
            optimizer.apply_gradients([(gradient, table.embeddings)])
            return loss

        return strategy.run(replica, args=(ids,))

    with pytest.raises(UnsupportedError, match="no mode.*Received: SyncSGD"):
        step(tf.range(3))
