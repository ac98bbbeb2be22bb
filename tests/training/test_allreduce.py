"""dense="allreduce": equal copies on all workers, the updates of one process with the joined batch, each batch once."""

import contextlib
import functools
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.errors import IdRangeError, UnsupportedError
from tfps.strategy.variables import DenseVariable
from tfps.training.allreduce.schedule import AllReduceSchedule
from tfps.training.exchange import local_copy

ROWS, FEATURES = 40, 3


@pytest.fixture
def reducing(strategy, monkeypatch):
    """The shared strategy, with `dense="allreduce"`."""
    monkeypatch.setattr(strategy, "dense", "allreduce")
    # As of a strategy that is made so: a call that the chief cancels is not taken for a lost worker.
    monkeypatch.setattr(strategy.losses, "_needs_all", "It needs all workers.")
    return strategy


def model_of(strategy, optimizer, frozen=True, extra=()):
    keras.utils.set_random_seed(5)
    with strategy.scope() if strategy else contextlib.nullcontext():
        ids, features = keras.Input((2,), dtype="int64"), keras.Input((FEATURES,))
        rows = keras.layers.Flatten()(keras.layers.Embedding(ROWS, 4, trainable=not frozen)(ids))
        for layer in extra:
            features = layer()(features)
        hidden = keras.layers.Dense(8, activation="tanh")(keras.layers.Concatenate()([rows, features]))
        model = keras.Model([ids, features], keras.layers.Dense(1)(hidden))
        model.compile(optimizer, "mse", metrics=["mae"])
    return model


def batches(count, size, join=1):
    """Batches of which the last has fewer examples; `join` of them become one."""
    random = np.random.default_rng(2)
    examples = count * size - 1
    ids = random.integers(0, ROWS, (examples, 2))
    features = random.normal(size=(examples, FEATURES)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices(((ids, features), features[:, :1] - features[:, 1:2] ** 2))
    return data.batch(size * join)


def fed(dataset):
    given = list(dataset)
    return tf.data.Dataset.from_generator(lambda: given, output_signature=dataset.element_spec)


def assert_equal(model, alone):
    assert int(model.optimizer.iterations) == int(alone.optimizer.iterations)
    ours, theirs = ([*one.get_weights(), *(np.asarray(v) for v in one.optimizer.variables)] for one in (model, alone))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)


OPTIMIZERS = {
    "adamw": lambda: keras.optimizers.AdamW(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5), clipnorm=0.05),
    "nadam": lambda: keras.optimizers.Nadam(0.01, global_clipnorm=0.1),
}


@pytest.mark.parametrize("name", ["adamw", pytest.param("nadam", marks=pytest.mark.slow)])
def test_workers_make_the_updates_of_one_process_with_the_joined_batch(reducing, name):
    """One worker has a batch more than the other, so the last update is from one batch."""
    model, alone = model_of(reducing, OPTIMIZERS[name]()), model_of(None, OPTIMIZERS[name]())
    logs = model.fit(batches(19, 8), epochs=2, verbose=0).history
    expected = alone.fit(batches(19, 8, join=2), epochs=2, verbose=0).history
    assert_equal(model, alone)
    np.testing.assert_allclose(logs["mae"], expected["mae"], rtol=1e-4)


def test_fed_batches_and_single_ones(reducing):
    model, alone = model_of(reducing, "adam"), model_of(None, "adam")
    # The last two are of different sizes, so their workers have different graphs.
    model.fit(fed(batches(6, 8)), epochs=2, verbose=0)
    alone.fit(batches(6, 8, join=2), epochs=2, verbose=0)
    for batch in batches(2, 8):
        model.train_on_batch(*batch)
        alone.train_on_batch(*batch)
    assert_equal(model, alone)


def test_no_batch_is_lost_or_trained_twice_where_shards_differ(reducing, tmp_path):
    """One worker has 3 batches in its file and the other 9; the next epoch begins with new iterators."""
    for name, lines in (("a", 12), ("b", 36)):
        (tmp_path / name).write_text("".join(f"{number}\n" for number in range(1, lines + 1)))
    with reducing.scope():
        model = keras.Sequential([keras.Input((1,)), Sums(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    lines = tf.data.TextLineDataset([str(tmp_path / "a"), str(tmp_path / "b")])
    data = lines.map(lambda line: tf.strings.to_number(tf.reshape(line, [1]))).map(lambda x: (x, x)).batch(4)
    model.fit(data, epochs=2, verbose=0)
    total = 2 * (sum(range(13)) + sum(range(37)))
    assert int(model.layers[0].total.numpy()) == total and int(model.optimizer.iterations) == 2 * 9


class Sums(keras.layers.Layer):
    """Passes its input on, and keeps sums, averages, extremes and flags of it."""

    def build(self, shape):
        made = functools.partial(self.add_weight, trainable=False, initializer="zeros")
        self.total, self.calls = made(shape=(), dtype="int64"), made(shape=(), dtype="int32")
        self.mean, self.slow, self.greatest = (made(shape=(shape[-1],)) for _ in range(3))

    def call(self, x, training=False):
        if training:
            self.total.assign_add(keras.ops.sum(keras.ops.cast(x, "int64")))
            self.calls.assign(self.calls + 1)
            self.mean.assign(0.5 * self.mean + 0.5 * keras.ops.mean(x, 0))
            self.slow.assign(0.5 * self.slow + 0.5 * self.mean)
            self.greatest.assign(keras.ops.maximum(self.greatest, keras.ops.max(x, 0)))
        return x


def test_what_a_step_assigns_is_that_of_the_joined_batch(reducing):
    model, alone = model_of(reducing, "sgd", extra=[Sums]), model_of(None, "sgd", extra=[Sums])
    model.fit(batches(5, 8), verbose=0)
    alone.fit(batches(5, 8, join=2), verbose=0)
    assert_equal(model, alone)


def copies(strategy, model):
    """The values of the dense variables on each worker."""
    variables = [v._value for v in [*model.weights, *model.optimizer.variables] if isinstance(v._value, DenseVariable)]

    def read(variable, device):
        with tf.device(device):
            return tf.raw_ops.ReadVariableOp(resource=local_copy(variable), dtype=variable.dtype).numpy()

    homes = [variable.numpy() for variable in variables]
    return homes, [[read(variable, device) for variable in variables] for device in strategy.worker_devices]


def test_copies_stay_equal_to_the_bit(reducing):
    """Also with random numbers, and layers that see the batch of one worker; servers have the same values."""
    layers = [keras.layers.BatchNormalization]
    model = model_of(reducing, keras.optimizers.Adagrad(0.1), frozen=False, extra=layers)
    before = model.get_weights()
    model.fit(batches(24, 8), epochs=2, verbose=0)
    homes, (first, second) = copies(reducing, model)
    for home, one, other in zip(homes, first, second, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(home, one)
    assert not any(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


class TwoOptimizers(keras.Model):
    """Each optimizer updates one layer, the second after it has seen the update of the first."""

    def __init__(self):
        super().__init__()
        self.first, self.last = keras.layers.Dense(4), keras.layers.Dense(1)
        self.other = keras.optimizers.SGD(0.1)
        self.build((None, FEATURES))

    def build(self, shape):
        self.first.build(shape)
        self.last.build((None, 4))
        self.built = True

    def call(self, x):
        return self.last(self.first(x))

    def train_step(self, data):
        x, y = data
        for layer, optimizer in ((self.first, self.optimizer), (self.last, self.other)):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x) - y) ** 2)
            optimizer.apply(tape.gradient(loss, layer.trainable_variables), layer.trainable_variables)
        return {"loss": loss}


def test_a_step_with_two_optimizers(reducing):
    def trained(scope, join):
        keras.utils.set_random_seed(5)
        with scope:
            model = TwoOptimizers()
            model.compile("adam")
        model.fit(batches(6, 8, join).map(lambda x, y: (x[1], y)), verbose=0)
        return model

    model, alone = trained(reducing.scope(), 1), trained(contextlib.nullcontext(), 2)
    assert int(model.optimizer.iterations) == int(model.other.iterations) == 3
    for one, other in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)


class Look(keras.callbacks.Callback):
    """Notes the updates that were made when each batch ended, and changes the learning rate."""

    def __init__(self, workers):
        super().__init__()
        self.workers, self.updates = workers, []

    def on_train_batch_end(self, batch, logs=None):
        self.updates.append(int(self.model.optimizer.iterations))
        if (batch + 1) % self.workers == 0:
            self.model.optimizer.learning_rate = 0.1 / (1 + batch // self.workers)


def test_a_callback_that_reads_the_model_changes_no_update(reducing):
    model, alone = (model_of(one, keras.optimizers.SGD(0.1)) for one in (reducing, None))
    looks = Look(2), Look(1)
    model.fit(batches(6, 8), verbose=0, callbacks=[looks[0]])
    alone.fit(batches(6, 8, join=2), verbose=0, callbacks=[looks[1]])
    assert looks[0].updates == [1, 1, 2, 2, 3, 3] and looks[1].updates == [1, 2, 3]
    assert_equal(model, alone)


def test_a_callback_that_saves_every_three_batches(reducing, tmp_path):
    with reducing.scope():
        model = keras.Sequential([keras.Input((1,)), Sums(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    ones = tf.data.Dataset.range(1, 17).map(lambda x: tf.cast([x], tf.float32)).map(lambda x: (x, x)).batch(2)
    name = str(tmp_path / "{batch}.weights.h5")
    saves = keras.callbacks.ModelCheckpoint(name, save_freq=3, save_weights_only=True)
    model.fit(ones, verbose=0, callbacks=[saves])
    for batches_so_far, updates in ((3, 2), (6, 4)):
        model.load_weights(name.format(batch=batches_so_far))
        assert int(model.layers[0].total.numpy()) == sum(range(1, 2 * batches_so_far + 1))
        assert int(model.optimizer.iterations) == updates


def test_steps_of_an_epoch(reducing, monkeypatch):
    """5 batches make 3 updates, and the next epoch goes on with the batch after them.

    The last round of an epoch is of one worker, which must not begin before the other has stored the values.
    """
    stock, rounds = AllReduceSchedule._submit_round, []

    def submit(schedule, members, *arguments):
        rounds.append((list(members), len(schedule._calls)))
        stock(schedule, members, *arguments)

    monkeypatch.setattr(AllReduceSchedule, "_submit_round", submit)
    with reducing.scope():
        model = keras.Sequential([keras.Input((1,)), Sums(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    ones = tf.data.Dataset.range(1, 100).map(lambda x: tf.cast([x], tf.float32)).map(lambda x: (x, x)).batch(2)
    model.fit(ones, steps_per_epoch=5, epochs=3, verbose=0)
    assert int(model.optimizer.iterations) == 9
    assert int(model.layers[0].total.numpy()) == sum(range(1, 31))
    assert [members for members, _ in rounds if len(members) == 1] == [[0], [1], [0]]
    assert not any(under_way for members, under_way in rounds if len(members) == 1)


def test_a_worker_that_fails_does_not_leave_the_other_waiting(reducing):
    model = model_of(reducing, "adagrad", frozen=False)
    model.fit(batches(4, 8), verbose=0)
    wrong = (
        batches(40, 8)
        .enumerate()
        .map(lambda i, data: ((data[0][0] + ROWS * tf.cast(i == 21, tf.int64), data[0][1]), data[1]))
    )
    begun = time.monotonic()
    with pytest.raises(IdRangeError):
        model.fit(wrong, verbose=0)
    assert time.monotonic() - begun < 60
    updates = int(model.optimizer.iterations)
    model.fit(batches(4, 8), verbose=0)
    assert int(model.optimizer.iterations) == updates + 2
    _, (first, second) = copies(reducing, model)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


REFUSED = {
    "mode Geo": lambda: tfps.optimizers.Geo("sgd"),
    "mode Sync": lambda: tfps.optimizers.Sync("sgd"),
    "`global_clipnorm` of SGD": lambda: keras.optimizers.SGD(global_clipnorm=1.0),
    "must not scale the loss": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_reduced_is_refused(reducing, message):
    model = model_of(reducing, REFUSED[message](), frozen=False)
    before = model.get_weights()
    with pytest.raises(UnsupportedError, match=message):
        model.fit(batches(2, 8), verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_optimizer_in_a_branch_is_refused(reducing):
    class Sometimes(TwoOptimizers):
        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(data[0]) - data[1]) ** 2)
            gradients = tape.gradient(loss, self.trainable_variables)

            def apply():
                self.optimizer.apply(gradients, self.trainable_variables)
                return True

            tf.cond(loss > 0.5, apply, lambda: False)
            return {"loss": loss}

    with reducing.scope():
        model = Sometimes()
        model.compile("sgd")
    with pytest.raises(UnsupportedError, match="outside of branches and loops"):
        model.fit(batches(2, 8).map(lambda x, y: (x[1], y)), verbose=0)


def test_a_step_that_splits_the_copies_ends_with_an_error(reducing):
    """The learning rate follows from the batch of the worker, so the workers make different updates."""

    class Reckless(TwoOptimizers):
        def train_step(self, data):
            self.optimizer.learning_rate.assign(tf.reduce_mean(tf.abs(data[0])))
            return super().train_step(data)

    with reducing.scope():
        model = Reckless()
        model.compile("sgd")
    with pytest.raises(UnsupportedError, match="must give variable .*kernel.* the same value on all workers"):
        model.fit(batches(4, 8).map(lambda x, y: (x[1], y)), verbose=0)


def test_hand_written_loops_are_refused(reducing):
    coordinator = tf.distribute.coordinator.ClusterCoordinator(reducing)
    with reducing.scope():
        weight = keras.Variable(1.0)

    @tf.function
    def step():
        return reducing.run(lambda: weight.assign_add(1.0))

    # TensorFlow puts its own error around what it meets in a user's function.
    with pytest.raises(Exception, match="hand-written loop"):
        coordinator.schedule(step)
        coordinator.join()
