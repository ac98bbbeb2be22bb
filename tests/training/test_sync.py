"""Sync: one update a global step, equal to that of one process with the concatenated batch; each batch trains once."""

import contextlib
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.errors import ConfigError, UnsupportedError
from tfps.training import runner
from tfps.training.closure import Result
from tfps.training.synchronous.schedule import SyncSchedule, UpdatePolicy

ROWS = 300
DECAY = keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.9)
INNER = {
    "adagrad": lambda: keras.optimizers.Adagrad(DECAY, clipnorm=0.01),
    "adam": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.02),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, clipvalue=0.002),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
}


def model_of(strategy, optimizer, seed=7):
    """Two tables of different widths, one of them looked up twice with ids that both lookups have."""
    keras.utils.set_random_seed(seed)
    with strategy.scope() if strategy else contextlib.nullcontext():
        inputs = keras.Input((3,), dtype="int64")
        wide, narrow = keras.layers.Embedding(ROWS, 4), keras.layers.Embedding(ROWS, 1)
        rows = [wide(inputs[:, 0]), wide(inputs[:, 2]), narrow(inputs[:, 1])]
        hidden = keras.layers.Dense(8, activation="tanh")(keras.layers.Concatenate()(rows))
        model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
        model.compile(optimizer=optimizer, loss="mse", metrics=["mae"])
    return model


def arrays(examples):
    ids = np.random.default_rng(1).zipf(1.3, (examples, 3)) % ROWS
    return ids, (ids[:, :1] % 7).astype("float32")


def batches(data, size):
    return tf.data.Dataset.from_tensor_slices(data).batch(size)


def fed(dataset):
    given = list(dataset)
    return tf.data.Dataset.from_generator(lambda: given, output_signature=dataset.element_spec)


def state(model):
    """Weights and slots; a number that Nadam keeps is merged otherwise by steps that are not synchronous."""
    number = getattr(model.optimizer, "_u_product", None)
    slots = [v for v in model.optimizer.variables[2:] if v is not number]
    return [*model.get_weights(), *(np.asarray(v) for v in slots)]


def one_worker_twin(strategy, optimizer, data, size):
    """The model of one worker that trains on the concatenated batches of all workers, one after the other."""
    model = model_of(strategy, optimizer)
    for batch in batches(data, size):
        model.train_on_batch(*batch)
    return model


@pytest.mark.parametrize("name", INNER)
def test_workers_make_the_update_of_the_joined_batch(strategy, name):
    data = arrays(17 * 32 + 5)  # the last batch is small, and one worker has one more than the other
    model = model_of(strategy, tfps.optimizers.Sync(INNER[name]()))
    model.fit(batches(data, 32), verbose=0)
    twin = one_worker_twin(strategy, INNER[name](), data, 64)
    assert int(model.optimizer.iterations) == int(twin.optimizer.iterations) == 9
    for ours, theirs in zip(state(model), state(twin), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)


def test_the_chief_feeds_batches_that_only_it_can_read(strategy):
    data = arrays(9 * 32)
    model = model_of(strategy, tfps.optimizers.Sync(keras.optimizers.SGD(0.1)))
    model.fit(fed(batches(data, 32)), verbose=0)
    alone = model_of(None, keras.optimizers.SGD(0.1))
    alone.fit(batches(data, 64), verbose=0)
    for ours, theirs in zip(state(model), state(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)


def test_one_batch_is_one_update(strategy):
    data = arrays(32)
    model = model_of(strategy, tfps.optimizers.Sync(keras.optimizers.SGD(0.1)))
    alone = model_of(None, keras.optimizers.SGD(0.1))
    for _ in range(3):
        model.train_on_batch(*data)
        alone.train_on_batch(*data)
    assert int(model.optimizer.iterations) == 3
    for ours, theirs in zip(state(model), state(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def with_empty(number, of):
    """Batches of 8 examples, but one of none."""

    def batch(i):
        rows = tf.where(i == number, 0, 8)
        return tf.random.stateless_normal([rows, 2], tf.stack([i, 0])), tf.ones([rows, 1])

    return tf.data.Dataset.range(of).map(batch)


class OwnMean(keras.losses.Loss):
    """A mean whose gradient over no examples is NaN."""

    def __init__(self):
        super().__init__(reduction=None)

    def call(self, y_true, y_pred):
        return tf.reduce_mean((y_true - y_pred) ** 2)


@pytest.mark.parametrize("loss", ["mse", OwnMean()], ids=["keras", "nan"])
def test_a_batch_without_examples_is_no_part_of_the_mean(strategy, loss):
    """Beside another batch it counts nothing; alone in its step it is an update with zero gradients, as in Keras."""

    def dense(scope):
        keras.utils.set_random_seed(7)
        with scope.scope() if scope else contextlib.nullcontext():
            layers = [keras.layers.Embedding(ROWS, 2), keras.layers.Flatten(), keras.layers.Dense(1)]
            inputs = keras.Input((2,))
            rows = layers[1](layers[0](keras.ops.cast(inputs > 0, "int32")))
            model = keras.Model(inputs, layers[2](keras.layers.Concatenate()([rows, inputs])))
            sgd = keras.optimizers.SGD(0.1)
            model.compile(tfps.optimizers.Sync(sgd) if scope else sgd, loss if scope else "mse")
        return model

    model, alone = dense(strategy), dense(None)
    model.fit(with_empty(4, 5), verbose=0)  # the fifth: alone in its step
    batches = list(with_empty(4, 5))
    for first, second in ((0, 1), (2, 3)):
        alone.train_on_batch(*(tf.concat(pair, 0) for pair in zip(batches[first], batches[second], strict=True)))
    alone.train_on_batch(*batches[4])
    model.fit(with_empty(1, 2), verbose=0)  # beside another
    alone.train_on_batch(*next(iter(with_empty(1, 2))))
    assert int(model.optimizer.iterations) == int(alone.optimizer.iterations) == 4
    for ours, theirs in zip(state(model), state(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_averages_and_flags_stay_in_a_step_without_examples(strategy):
    with strategy.scope():
        norm = keras.layers.BatchNormalization()
        model = keras.Sequential([keras.Input((2,)), norm, keras.layers.Dense(1)])
        model.flag = keras.Variable(True, dtype="bool", trainable=False)
        model.compile(tfps.optimizers.Sync(keras.optimizers.SGD(0.1, momentum=0.9)), "mse")
    model.train_on_batch(np.ones((8, 2), np.float32), np.ones((8, 1), np.float32))
    averages, slots = [norm.moving_mean.numpy(), norm.moving_variance.numpy()], state(model)[len(model.weights) :]
    model.train_on_batch(np.zeros((0, 2), np.float32), np.zeros((0, 1), np.float32))
    assert int(model.optimizer.iterations) == 2 and bool(model.flag.numpy())
    np.testing.assert_array_equal([norm.moving_mean.numpy(), norm.moving_variance.numpy()], averages)
    for now, before in zip(state(model)[len(model.weights) :], slots, strict=True):
        np.testing.assert_allclose(now, 0.9 * before, rtol=1e-6)


class OfWidth(keras.Model):
    """One layer over features that come flat with their lengths, ragged or sparse."""

    def __init__(self):
        super().__init__()
        self.last = keras.layers.Dense(1)
        self.last.build((None, 5))
        self.built = True

    def call(self, x):
        if isinstance(x, dict):
            x = tf.RaggedTensor.from_row_lengths(x["flat"], x["lengths"])
        dense = tf.sparse.to_dense(x) if isinstance(x, tf.SparseTensor) else x.to_tensor(shape=[None, 5])
        return self.last(tf.ensure_shape(dense, [None, 5]))

    def train_step(self, data):
        x, y = (data["x"], data["y"]) if isinstance(data, dict) else data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x) - y) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


@pytest.mark.parametrize("kind", ["flat", "ragged", "sparse", "dict"])
def test_batches_count_by_their_examples_whatever_their_features(strategy, kind):
    """Of 8 and 3 examples, the fewer with more values."""
    lengths = np.array([1] * 8 + [5] * 3)
    values = np.random.default_rng(3).normal(size=lengths.sum()).astype("float32")
    ragged = tf.RaggedTensor.from_row_lengths(values, lengths)

    def of_kind(x, y):
        if kind == "sparse":
            return tf.sparse.reorder(tf.sparse.from_dense(x.to_tensor(shape=[None, 5]))), y
        if kind == "ragged":
            return x, y
        return ({"flat": x.values, "lengths": x.row_lengths()}, y) if kind == "flat" else {"x": x, "y": y}

    data = tf.data.Dataset.from_tensor_slices((ragged, np.arange(11.0, dtype=np.float32)[:, None]))
    weights = []
    for size in (8, 11):
        keras.utils.set_random_seed(7)
        with strategy.scope():
            model = OfWidth()
            sgd = keras.optimizers.SGD(0.1)
            model.compile(tfps.optimizers.Sync(sgd) if size == 8 else sgd)
            model.optimizer.build(model.trainable_variables)
        model.fit(data.batch(size).map(of_kind), verbose=0)
        assert int(model.optimizer.iterations) == 1
        weights.append(model.get_weights())
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


class NegativeMean(keras.losses.Loss):
    """Its gradient does not depend on the weights, so the sum of all updates tells which batches they were made of."""

    def call(self, y_true, y_pred):
        return -keras.ops.mean(keras.ops.sum(y_pred, axis=-1), axis=-1)


def counter(strategy, **mode):
    with strategy.scope():
        table = keras.layers.Embedding(ROWS, 4, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((1,), dtype="int64"), table])
        optimizer = tfps.optimizers.Sync(keras.optimizers.SGD(64.0), **mode)
        model.compile(optimizer, NegativeMean(), metrics=[Examples()])
    return model


class Examples(keras.metrics.Sum):
    """Counts examples."""

    def __init__(self, **kwargs):
        super().__init__(name="examples", **kwargs)

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(keras.ops.ones((keras.ops.shape(y_pred)[0],)))


@pytest.mark.parametrize("staleness", [0, 3])
def test_every_update_counts_every_batch_once(strategy, staleness):
    """A power of two of examples, at a rate of as many, moves a row by exactly its part of the concatenated batch."""
    ids = np.random.default_rng(0).integers(0, ROWS, (64 * 32, 1))
    model = counter(strategy, max_staleness=staleness)
    history = model.fit(ids, np.zeros((64 * 32, 1, 4), np.float32), batch_size=32, epochs=2, verbose=0)
    seen = np.bincount(ids.reshape(-1), minlength=ROWS)
    assert int(model.optimizer.iterations) == 2 * 32
    np.testing.assert_array_equal(model.get_weights()[0], np.repeat(2.0 * seen[:, None], 4, 1))
    assert history.history["examples"] == [64 * 32, 64 * 32]


def test_a_budget_of_steps_is_kept(strategy):
    data = tf.data.Dataset.from_tensors((np.ones((32, 1), np.int64), np.zeros((32, 1, 4), np.float32))).repeat()
    model = counter(strategy)
    history = model.fit(data, steps_per_epoch=7, epochs=2, verbose=0)
    assert int(model.optimizer.iterations) == 2 * 4
    assert history.history["examples"] == [7 * 32, 7 * 32]


class Calls(list):
    """Calls that end when they are taken, in the order in which they were made."""

    def __init__(self, *_):
        super().__init__()

    def submit(self, worker, flight, function, chain=None):
        self.append((flight, function))

    def take(self):
        flight, function = self.pop(0)
        return flight, function()


def schedule_of(monkeypatch, left, policy):
    """A schedule over three shards, each with so many batches `left`; and the shards of the batches that have begun."""
    monkeypatch.setattr(runner, "Calls", Calls)
    begun = []

    def over_iterator(iterator, order):
        begun.append(order.shard)
        left[order.shard] -= 1
        return int(left[order.shard] >= 0)

    workers = types.SimpleNamespace(
        pool=types.SimpleNamespace(devices=[0, 1, 2]), host_of=lambda shard: shard, closure_timeout_s=1.0
    )
    closures = types.SimpleNamespace(over_iterator=over_iterator, read=lambda steps: Result(steps, [], {}))
    source = types.SimpleNamespace(num_batches=9, is_fed=False, in_turn=False, steps_per_epoch=9)
    iterators = dict.fromkeys(range(3), "input")
    epoch = types.SimpleNamespace(source=source, hosts=[0, 1, 2], iterators=iterators, taken=[0, 0, 0], handed=0)
    return SyncSchedule(runner.Runner(workers, closures, lambda result: None), epoch, policy), begun


def test_no_batch_is_begun_once_training_is_stopped(monkeypatch):
    """Not even where a shard turns out to have ended, so that steps which were meant for it are left of the budget."""
    schedule, begun = schedule_of(monkeypatch, [8, 1, 8], UpdatePolicy(1, 0, lambda places: None))
    assert schedule.take(2) == 2 and begun == [0, 1]  # the third comes late
    schedule._launch()  # the second shard has no more, which nobody knows yet
    schedule.join()
    assert begun.count(0) == 2 and schedule.epoch.taken == [2, 1, 1]


def test_a_batch_that_waits_for_others_is_not_part_of_the_model(monkeypatch):
    """A checkpoint of that moment must not count it."""
    schedule, _ = schedule_of(monkeypatch, [8, 8, 8], UpdatePolicy(0, 0, lambda places: None))
    schedule._launch()
    schedule._take_result()
    assert schedule.epoch.taken == [1, 0, 0] and schedule.taken() == [0, 0, 0]
    schedule.settle()
    assert schedule.epoch.taken == schedule.taken() == [1, 1, 1]


def test_an_update_is_made_of_a_step_whose_trace_has_ended(strategy, monkeypatch):
    """Not of one that a worker's thread is about to trace, as for a batch of another shape."""
    model, run_batch = counter(strategy), runner.Runner.run_batch

    def and_another_begins(self, *args):
        result = run_batch(self, *args)
        model.train_function.mode.closure(self.closures.last.program, 1)
        return result

    monkeypatch.setattr(runner.Runner, "run_batch", and_another_begins)
    model.train_on_batch(np.ones((8, 1), np.int64), np.zeros((8, 1, 4), np.float32))
    assert int(model.optimizer.iterations) == 1 and model.get_weights()[0].sum() == 64.0 * 4


@pytest.mark.parametrize("from_chief", [False, True], ids=["shipped", "fed"])
def test_what_comes_late_goes_again(strategy, from_chief):
    """The second worker is slow: updates are made without it, and still each batch is trained once."""

    def slow(x, y, number):
        turns = 20 * (number % 2)
        spun = tf.while_loop(lambda i, a: i < turns, lambda i, a: (i + 1, a @ a / 300), (0, tf.ones([300, 300])))[1]
        return x, y + 0.0 * spun[0, 0]

    examples = 20 * 32
    ids = np.random.default_rng(0).integers(0, ROWS, (examples, 1))
    y = np.zeros((examples, 1, 4), np.float32)
    data = tf.data.Dataset.from_tensor_slices((ids, y, np.arange(examples, dtype=np.int32) // 32)).batch(32)
    data = data.map(lambda x, y, number: slow(x, y, number[0]))
    model = counter(strategy, drop_slowest=1)
    history = model.fit(fed(data) if from_chief else data, epochs=2, verbose=0)
    assert history.history["examples"] == [examples, examples]
    assert 2 * 10 <= int(model.optimizer.iterations) <= 2 * 20
    # Each update adds 64 in all, whatever the number of its batches.
    assert model.get_weights()[0].sum() == 64.0 * 4 * int(model.optimizer.iterations)


def test_layers_with_state_of_their_own_get_the_mean_of_the_workers(strategy):
    keras.utils.set_random_seed(5)
    with strategy.scope():
        norm = keras.layers.BatchNormalization(momentum=0.5)
        model = keras.Sequential([keras.Input((2,)), norm, keras.layers.Dropout(0.5), keras.layers.Dense(1)])
        model.compile(tfps.optimizers.Sync(keras.optimizers.SGD(0.01)), "mse")
    x = np.random.default_rng(0).normal(3.0, 2.0, (8 * 16, 2)).astype("float32")
    model.fit(x, x[:, :1], batch_size=16, shuffle=False, verbose=0)
    means = x.reshape(4, 2, 16, 2).mean(2).mean(1)  # of each global step over its two batches
    expected = np.zeros(2)
    for mean in means:
        expected = 0.5 * expected + 0.5 * mean
    np.testing.assert_allclose(norm.moving_mean.numpy(), expected, rtol=1e-5)


def test_rows_are_merged_and_updated_where_they_are(strategy):
    model = model_of(strategy, tfps.optimizers.Sync(keras.optimizers.Adagrad(0.1)))
    model.fit(batches(arrays(64), 32), verbose=0)
    (update,) = model.train_function.mode.update_function._list_all_concrete_functions()
    ops = {op.name: op for op in update.graph.get_operations()}
    applied = [op for op in ops.values() if op.type in ("TfpsApplyRows", "ResourceScatterNdAdd")]
    assert len(applied) >= strategy.num_servers
    for op in applied:
        assert "/job:ps" in op.device
        for source in op.inputs:
            assert source.dtype == tf.resource or source.op.device == op.device or source.op.type == "Const", source


def test_a_saved_model_goes_on(strategy, tmp_path):
    data = arrays(8 * 32)
    model = model_of(strategy, tfps.optimizers.Sync(keras.optimizers.Adam(0.01), max_staleness=1))
    model.fit(batches(data, 32), verbose=0)
    model.save(tmp_path / "m.keras")
    with strategy.scope():
        again = keras.models.load_model(tmp_path / "m.keras")
    assert again.optimizer.tfps_mode == model.optimizer.tfps_mode and again.optimizer.tfps_mode.max_staleness == 1
    for ours, theirs in zip(state(again), state(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    again.fit(batches(data, 32), verbose=0)
    assert int(again.optimizer.iterations) == 8
    alone = keras.models.load_model(tmp_path / "m.keras")  # without the strategy
    alone.fit(batches(data, 64), verbose=0)
    assert int(alone.optimizer.iterations) == 8


def test_what_sync_cannot_do_is_said(strategy):
    with pytest.raises(ConfigError, match=r"`drop_slowest` must be an integer of at least 0. Received: -1"):
        tfps.optimizers.Sync("sgd", drop_slowest=-1)
    with pytest.raises(ConfigError, match=r"`max_staleness` must be an integer.*Received: 0.5"):
        tfps.optimizers.Sync("sgd", max_staleness=0.5)
    with pytest.raises(ConfigError, match=r"must not both.*drop_slowest=1, max_staleness=2"):
        tfps.optimizers.Sync("sgd", drop_slowest=1, max_staleness=2)
    with pytest.raises(UnsupportedError, match=r"in mode Geo.*into mode Sync. Received: GeoSGD"):
        tfps.optimizers.Sync(tfps.optimizers.Geo("sgd"))
    model = model_of(strategy, tfps.optimizers.Sync("sgd", drop_slowest=2))
    with pytest.raises(ConfigError, match=r"below the number of workers, 2. Received: 2"):
        model.fit(batches(arrays(64), 32), verbose=0)


class TwoOptimizers(keras.Model):
    def __init__(self):
        super().__init__()
        self.one, self.other = keras.layers.Dense(1), keras.layers.Dense(1)
        self.second = keras.optimizers.SGD(0.1)

    def call(self, x):
        return self.one(x) + self.other(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape(persistent=True) as tape:
            loss = tf.reduce_mean((self(x) - y) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.one.trainable_variables), self.one.trainable_variables)
        self.second.apply(tape.gradient(loss, self.other.trainable_variables), self.other.trainable_variables)
        return {"loss": loss}


def test_an_optimizer_left_out_of_the_mode_is_not_lost_in_silence(strategy):
    with strategy.scope():
        model = TwoOptimizers()
        model.compile(tfps.optimizers.Sync("sgd"))
        model.one.build((None, 2))
        model.other.build((None, 2))
        model.optimizer.build(model.one.trainable_variables)
        model.second.build(model.other.trainable_variables)
    with pytest.raises(UnsupportedError, match=r"every optimizer of a model must be in the mode.*Received: SGD"):
        model.fit(np.ones((8, 2), np.float32), np.ones((8, 1), np.float32), verbose=0)
