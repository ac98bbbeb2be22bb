"""State that no optimizer owns: what layers and steps assign, with two workers and as in one process."""

import contextlib
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.errors import UnsupportedError

BATCH, STEPS, ROWS = 4, 96, 16
FIRST_ID = 2**40
MODES = ["async", "overlapped async", "geo", "overlapped geo", "sync"]


def in_mode(mode, optimizer):
    if "geo" in mode:
        return tfps.optimizers.Geo(optimizer, push_every=5, overlap="overlapped" in mode)
    return tfps.optimizers.Sync(optimizer) if mode == "sync" else optimizer


class Stateful(keras.layers.Layer):
    """Has one weight of each kind; its inputs are the number of the batch."""

    def build(self, shape):
        def weight(name, shape=(), dtype="float32", value="zeros"):
            return self.add_weight(name=name, shape=shape, dtype=dtype, initializer=value, trainable=False)

        self.count, self.seen = weight("count", dtype="int32"), weight("seen")
        self.averages = [weight(f"average_{i}", (2,), value="ones") for i in range(4)]
        self.last, self.at, self.flag = weight("last"), weight("at", dtype="int32"), weight("flag", dtype="bool")
        self.queue = weight("queue", (3 * BATCH, 2))
        self.most, self.some = weight("most", (2,)), weight("some", dtype="bool")
        self.bank, self.places = weight("bank", (STEPS,)), weight("places", (STEPS,), "int32")
        self.kept = weight("kept", (2,), value="ones")
        self.newest, self.names = weight("newest", dtype="int64"), weight("names", (STEPS + 1,), "int64")
        self.raised, self.moved = weight("raised"), weight("moved", (STEPS,))

    def call(self, x, training=False):
        if training:
            nothing = 0.0 * keras.ops.mean(x, 0)
            self.count.assign(self.count + 1)
            self.seen.assign_add(keras.ops.cast(keras.ops.shape(x)[0], "float32"))
            self.averages[0].assign(0.97 * self.averages[0] + 0.03 * nothing)
            self.averages[1].assign_sub(0.03 * (self.averages[1] - nothing))
            decay = keras.ops.where(self.count < 0, 0.5, 0.97)
            self.averages[2].assign(decay * self.averages[2] + (1.0 - decay) * nothing)

            def move():
                self.averages[3].assign(self.averages[3] * 0.97)
                return 0

            tf.cond(self.count.value > 0, move, lambda: 0)
            self.last.assign(7.0 + keras.ops.sum(nothing))
            self.at.assign((self.at + 1) % 5)
            self.flag.assign(True)
            self.queue.assign(keras.ops.concatenate([x, self.queue[: 2 * BATCH]], 0))
            self.most.assign(keras.ops.maximum(self.most, keras.ops.max(x, 0)))
            self.some.assign(keras.ops.logical_or(self.some, keras.ops.any(x == 50.0)))
            place = keras.ops.cast(x[:, 0], "int32")
            self.bank.assign(keras.ops.scatter_update(self.bank, place[:, None], x[:, 0] + 1.0))
            self.places.assign(self.places + keras.ops.sum(keras.ops.one_hot(place, STEPS, dtype="int32"), 0))
            self.kept.assign(self.kept * [0.97, 1.0] + nothing)
            # Ids, of which float32 has too few digits. All steps write the last of the names.
            number = FIRST_ID + keras.ops.cast(place[:1], "int64")
            self.newest.assign(keras.ops.maximum(self.newest, number[0]))
            names = keras.ops.concatenate([number, 2 * number])
            self.names.assign(keras.ops.scatter_update(self.names, [[place[0]], [STEPS]], names))
            # What has no merge: an extreme of a sum, and slices that follow from their old values.
            self.raised.assign_add(1.0)
            self.raised.assign(keras.ops.maximum(self.raised, x[0, 0]))
            rows = tf.gather(self.moved.value, place[:1]) + 1.0
            self.moved.value.scatter_update(tf.IndexedSlices(rows, place[:1]))
        return x


def trained(scope, mode, batch=BATCH):
    keras.utils.set_random_seed(1)
    with scope:
        layer = Stateful()
        model = keras.Sequential([keras.Input((2,)), layer, keras.layers.Dense(1)])
        model.compile(in_mode(mode, keras.optimizers.SGD(1e-6)), "mse")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(1_000_000)  # an old model, which all workers train at once
    x = np.repeat(np.arange(STEPS, dtype=np.float32), BATCH)[:, None] * np.ones(2, np.float32)
    model.fit(x, x[:, :1], batch_size=batch, shuffle=False, verbose=0)
    return layer


@pytest.mark.parametrize("mode", MODES)
def test_what_two_workers_assign_adds_up_to_what_one_process_has(strategy, monkeypatch, caplog, mode):
    monkeypatch.setattr(strategy, "overlap_dense_exchange", mode == "overlapped async")
    layer = trained(strategy.scope(), mode)
    # A global step of synchronous mode is a step of the joined batch.
    steps = STEPS // 2 if mode == "sync" else STEPS
    assert int(layer.count) == steps and float(layer.seen) == steps * BATCH
    for average in layer.averages:
        np.testing.assert_allclose(average.numpy(), 0.97**steps, rtol=1e-3)
    np.testing.assert_array_equal(layer.most.numpy(), STEPS - 1)
    np.testing.assert_array_equal(layer.bank.numpy(), np.arange(STEPS) + 1)
    np.testing.assert_array_equal(layer.places.numpy(), BATCH)
    np.testing.assert_allclose(layer.kept.numpy(), [0.97**steps, 1.0], rtol=1e-3)
    assert bool(layer.some.numpy())
    assert int(layer.newest.numpy()) == FIRST_ID + STEPS - 1
    np.testing.assert_array_equal(layer.names.numpy()[:-1], FIRST_ID + np.arange(STEPS))
    assert layer.names.numpy()[-1] % 2 == 0, "ids were mixed"
    np.testing.assert_array_equal(layer.moved.numpy(), 1.0)
    for name in ("queue", "raised", "moved") if mode != "sync" else ("queue",):
        assert any(name in record.message and "cannot merge" in record.message for record in caplog.records), name
    assert float(layer.last) == 7.0 and bool(layer.flag.numpy()) and int(layer.at) in range(5)
    if mode != "sync":  # it has the mean of the workers' queues
        queue = layer.queue.numpy()
        assert set(queue.reshape(-1)) <= set(range(STEPS)), "batches were mixed"
        assert len(np.unique(queue)) == 3 and queue.min() > 0


@pytest.mark.parametrize("mode", ["async", pytest.param("overlapped geo", marks=pytest.mark.slow), "sync"])
def test_one_worker_has_the_state_of_one_process(one_worker, monkeypatch, mode):
    monkeypatch.setattr(one_worker, "overlap_dense_exchange", mode == "overlapped async")
    ours, theirs = trained(one_worker.scope(), mode), trained(contextlib.nullcontext(), "async")
    for left, right in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(left.numpy(), right.numpy(), rtol=1e-4, err_msg=left.name)


class Assigning(keras.Model):
    """A step that assigns weights itself, after its optimizer has moved them."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.student, self.teacher = kind, keras.layers.Dense(2), keras.layers.Dense(2)
        for layer in (self.student, self.teacher):
            layer.build((None, 2))

    def call(self, x):
        return self.student(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.student(x) - y) ** 2)
        weights = self.student.trainable_variables
        if self.kind == "shrink before":
            for weight in weights:
                weight.assign(0.5 * weight)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        if self.kind == "teacher":
            for average, weight in zip(self.teacher.weights, weights, strict=True):
                average.assign(0.9 * average + 0.1 * weight)
        elif self.kind == "clip":
            for weight in weights:
                weight.assign(tf.clip_by_value(weight, -0.1, 0.1))
        elif self.kind == "batch":
            weights[1].assign(tf.reduce_mean(x, 0))
        return {"own": loss}


def assigned(scope, mode, kind, batch=BATCH):
    keras.utils.set_random_seed(1)
    with scope:
        model = Assigning(kind)
        model.compile(in_mode(mode, keras.optimizers.SGD(0.05, momentum=0.5)))
    if kind == "clip":  # what a push leaves of a value beyond the clip depends on the number of pushes
        model.student.set_weights([np.clip(weight, -0.1, 0.1) for weight in model.student.get_weights()])
    model.optimizer.iterations.assign(1_000_000)  # an old model, which all workers train at once
    x = np.random.default_rng(0).normal(size=(160, 2)).astype("float32")
    model.fit(x, 3 * x + 1, batch_size=batch, shuffle=False, verbose=0)
    return [weight.numpy() for weight in model.student.weights + model.teacher.weights]


@pytest.mark.parametrize(
    ("mode", "kind"), [("async", "clip"), ("geo", "teacher"), ("sync", "teacher"), ("sync", "clip")]
)
def test_an_assignment_beside_the_optimizer_counts(strategy, mode, kind):
    found = assigned(strategy.scope(), mode, kind)
    if mode == "sync":
        joined = assigned(contextlib.nullcontext(), "async", kind, 2 * BATCH)
        for left, right in zip(found, joined, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-5)
    elif kind == "clip":
        assert max(np.abs(weight).max() for weight in found[:2]) <= 0.1 + 1e-6
        np.testing.assert_allclose(np.abs(np.diag(found[0])), 0.1, rtol=1e-4)
    else:
        np.testing.assert_allclose(found[2], found[0], atol=0.5)
        np.testing.assert_allclose(np.diag(found[2]), 3.0, atol=0.5)


@pytest.mark.parametrize(
    ("mode", "kind"), [("async", "teacher"), ("geo", "clip"), ("sync", "clip"), ("sync", "shrink before")]
)
def test_with_one_worker_it_counts_as_in_one_process(one_worker, mode, kind):
    ours, theirs = assigned(one_worker.scope(), mode, kind), assigned(contextlib.nullcontext(), "async", kind)
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-5)


def test_a_synchronous_step_that_assigns_what_servers_cannot_compute_is_refused(strategy):
    with pytest.raises(UnsupportedError, match=r"must not assign '.*bias.*' a value that depends on its batch"):
        assigned(strategy.scope(), "sync", "batch")


@pytest.mark.parametrize("mode", ["async", "overlapped async", "geo"])
def test_a_constraint_holds_for_the_sum_of_what_workers_push(strategy, monkeypatch, mode):
    monkeypatch.setattr(strategy, "overlap_dense_exchange", mode == "overlapped async")
    with strategy.scope():
        layers = [keras.Input((2,)), keras.layers.Dense(4, kernel_constraint="non_neg", kernel_initializer="ones")]
        model = keras.Sequential(layers)
        model.compile(in_mode(mode, keras.optimizers.SGD(0.05)), "mse")
    model.optimizer.iterations.assign(1_000_000)
    model.fit(np.ones((256, 2)), np.full((256, 4), -9.0), batch_size=4, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], 0.0)


def states(scope, mode, size=2):
    """The states of a stateful LSTM that multiplies its input by what it had; each batch continues the one before."""
    keras.utils.set_random_seed(1)
    with scope:
        layer = keras.layers.LSTM(2, stateful=True)
        model = keras.Sequential([keras.Input(batch_shape=(size, 3, 2)), layer, keras.layers.Dense(1)])
        model.compile(in_mode(mode, keras.optimizers.SGD(0.01)), "mse")
    x = np.random.default_rng(0).normal(size=(40 * size, 3, 2)).astype("float32")
    model.fit(x, x[:, 0, :1], batch_size=size, shuffle=False, verbose=0, epochs=2)
    return model, [state.numpy() for state in layer.states]


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_one_worker_carries_the_state_of_a_layer_on(one_worker, mode):
    for left, right in zip(
        states(one_worker.scope(), mode)[1], states(contextlib.nullcontext(), "async")[1], strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-5)


def test_each_worker_carries_its_own_state_on(strategy, caplog):
    class Carry(keras.layers.RNN):
        """Has in its state the product of the signs of its inputs and the number of steps."""

    class Cell(keras.layers.Layer):
        state_size = output_size = 1

        def call(self, inputs, states):
            # Worker 0 reads batches of 1 and worker 1 batches of 2: a state of the other one would show.
            state = keras.ops.where(states[0] == 0.0, inputs, keras.ops.where(states[0] == inputs, inputs, 99.0))
            return state, [state]

    with caplog.at_level(logging.WARNING, "tfps"), strategy.scope():
        layer = Carry(Cell(), stateful=True, unroll=True)
        model = keras.Sequential([keras.Input(batch_shape=(1, 1, 1)), layer, keras.layers.Dense(1)])
        model.compile("sgd", "mse", steps_per_execution=2)
        model.optimizer.iterations.assign(1_000_000)
        model.fit(np.tile([1.0, 2.0], 40).reshape(80, 1, 1), np.zeros(80), batch_size=1, shuffle=False, verbose=0)
    assert float(layer.states[0].numpy()[0, 0]) in (1.0, 2.0)
    assert any("each of the 2 workers" in record.message for record in caplog.records)


def test_a_hand_written_loop_merges_what_it_assigns(strategy):
    with strategy.scope():
        average = keras.Variable(1.0, trainable=False)

    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)

    @tf.function
    def run():
        return strategy.run(lambda: average.assign(average * 0.97))

    for _ in range(20):
        coordinator.schedule(run)
    coordinator.join()
    assert float(average) == pytest.approx(0.97**20, rel=1e-3)
