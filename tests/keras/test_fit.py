"""Stock Keras training under the strategy: what goes in, what is counted, what callbacks see."""

import gc
import time
import weakref

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.conftest import all_train
from tfps.strategy.variables import SumVariable

ROWS = 60


class NegativeSum(keras.losses.Loss):
    """Its gradient is -1 for every looked-up element, so with SGD at rate 1 a row counts how often it was seen."""

    def __init__(self):
        super().__init__(reduction="sum")

    def call(self, y_true, y_pred):
        return -keras.ops.sum(y_pred, axis=-1)


@pytest.fixture
def counter(strategy):
    """A model whose table counts the examples of each id."""
    with strategy.scope():
        table = keras.layers.Embedding(ROWS, 4, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((), dtype="int64"), table])
        model.compile(
            optimizer=keras.optimizers.SGD(1.0), loss=NegativeSum(), metrics=[keras.metrics.MeanSquaredError()]
        )
    return model


IDS = np.arange(ROWS)
ZEROS = np.zeros((ROWS, 4), np.float32)


def pairs():
    return tf.data.Dataset.from_tensor_slices((IDS, ZEROS))


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 9

    def __getitem__(self, index):
        return IDS[index * 7 : (index + 1) * 7], ZEROS[index * 7 : (index + 1) * 7]


def generated():
    yield from zip(IDS, ZEROS, strict=True)


SIGNATURE = (tf.TensorSpec([], tf.int64), tf.TensorSpec([4], tf.float32))
INPUTS = {
    "arrays": (dict(x=IDS, y=ZEROS, batch_size=7), 9),
    "arrays, in order": (dict(x=IDS, y=ZEROS, batch_size=7, shuffle=False), 9),
    "arrays, batches shuffled": (dict(x=IDS, y=ZEROS, batch_size=7, shuffle="batch"), 9),
    "pandas": (dict(x=pd.Series(IDS), y=pd.DataFrame(ZEROS), batch_size=8), 8),
    "dataset": (dict(x=pairs().batch(7)), 9),
    "dataset, shuffled": (dict(x=pairs().shuffle(ROWS).batch(7)), 9),
    "dataset, worked on": (dict(x=pairs().shuffle(9).batch(7).map(lambda a, b: (a, b)).prefetch(2)), 9),
    "generator": (dict(x=tf.data.Dataset.from_generator(generated, output_signature=SIGNATURE).batch(7)), 9),
    "PyDataset": (dict(x=Sequence()), 9),
    "one batch": (dict(x=pairs().batch(ROWS)), 1),
    "batches of one": (dict(x=pairs().batch(1)), ROWS),  # enough for closures of several steps
}


@pytest.mark.parametrize("kind", INPUTS)
def test_an_epoch_trains_each_example_once(counter, kind):
    arguments, steps = INPUTS[kind]
    history = counter.fit(**arguments, epochs=2, verbose=0)
    np.testing.assert_array_equal(counter.get_weights()[0], np.full((ROWS, 4), 2.0))
    assert int(counter.optimizer.iterations) == 2 * steps
    assert len(history.history["loss"]) == 2


def test_keras_does_not_warn_of_a_shuffle_that_nobody_asked_for(counter, recwarn):
    counter.fit(pairs().batch(7), verbose=0)
    counter.fit(((ids[None], zeros[None]) for ids, zeros in generated()), verbose=0)
    assert not [str(warning.message) for warning in recwarn if "shuffle" in str(warning.message)]


@pytest.mark.parametrize("young", [False, True], ids=["old", "young"])
def test_a_dataset_is_sent_to_the_workers_once(counter, monkeypatch, young):
    from tfps.inputs import input_shards, worker_input

    if not young:
        all_train(monkeypatch)
    sent, cut_shard = [], input_shards.cut_shard
    monkeypatch.setattr(input_shards, "cut_shard", lambda *shard: sent.append(shard[1:3]) or cut_shard(*shard))
    dataset = pairs().shuffle(ROWS, seed=3).batch(7)
    for _ in range(2):
        counter.fit(dataset, verbose=0)
    # One worker reads the whole input while the model is young.
    assert sorted(sent) == ([(1, input_shards.WHOLE)] if young else [(2, 0), (2, 1)])
    once = len(sent)
    np.testing.assert_array_equal(counter.get_weights()[0], np.full((ROWS, 4), 3.0))
    counter.fit(dataset.take(9), verbose=0)  # another dataset
    assert len(sent) == 2 * once
    kept = weakref.ref(getattr(dataset, worker_input._SHARDS)[1])
    del dataset
    counter.fit(pairs().batch(7), verbose=0)
    gc.collect()
    assert kept() is None


def test_an_input_smaller_than_the_workers(counter):
    counter.fit(pairs().take(1).batch(1), epochs=3, verbose=0)
    assert counter.get_weights()[0][:, 0].tolist() == [3.0] + [0.0] * (ROWS - 1)


@pytest.mark.parametrize("kind", ["shipped", "fed"])
def test_steps_per_epoch_goes_on_where_it_stopped(counter, kind):
    examples = pairs() if kind == "shipped" else tf.data.Dataset.from_generator(generated, output_signature=SIGNATURE)
    counter.fit(examples.repeat().batch(6), steps_per_epoch=5, epochs=2, verbose=0)
    assert int(counter.optimizer.iterations) == 10
    seen = counter.get_weights()[0][:, 0]
    # Of a shipped input one worker may be a batch further than the other.
    assert seen.sum() == ROWS and (kind == "shipped" or set(seen) == {1})


def slow_first_batch(ids, zeros):
    """About a second of work for the batch that begins with 0."""
    turns = tf.where(ids[0] == 0, 300, 0)
    _, idle = tf.while_loop(lambda turn, _: turn < turns, lambda turn, m: (turn + 1, m @ m), (0, tf.zeros([300, 300])))
    return ids, zeros + idle[0, 0]


def test_what_one_worker_cannot_do_of_the_steps_another_does(counter, no_young):
    """Of nine batches the second worker has four, is done with them first, and is asked for more."""
    counter.fit(pairs().batch(7).map(slow_first_batch), steps_per_epoch=9, epochs=1, verbose=0)
    assert int(counter.optimizer.iterations) == 9


def test_an_input_that_ends_before_its_steps(counter):
    """A generator does not say how long it is."""
    dataset = tf.data.Dataset.from_generator(generated, output_signature=SIGNATURE).batch(7)
    with pytest.warns(UserWarning, match="ran out of data"):
        counter.fit(dataset, steps_per_epoch=20, epochs=1, verbose=0)
    np.testing.assert_array_equal(counter.get_weights()[0], np.ones((ROWS, 4)))


def test_metrics_count_every_example(counter):
    """A row is 0 when the first epoch comes to it, and 1 when the second does."""
    history = counter.fit(pairs().batch(7), epochs=2, verbose=0).history
    assert history["mean_squared_error"] == pytest.approx([0.0, 1.0])
    assert [float(variable.numpy()) for variable in counter.metrics_variables[-2:]] == [ROWS, ROWS]  # total, count


@pytest.mark.parametrize("kind", ["arrays", "dataset", "dataset, shuffled", "generator", "PyDataset"])
def test_evaluate_sees_each_example_once(counter, kind):
    rows = np.random.default_rng(0).normal(size=(ROWS, 4))
    counter.set_weights([rows])
    alone = keras.Sequential([keras.Input((), dtype="int64"), keras.layers.Embedding(ROWS, 4)])
    alone.compile(loss=NegativeSum(), metrics=["mean_squared_error"])
    alone.set_weights([rows])
    results = counter.evaluate(**INPUTS[kind][0], verbose=0, return_dict=True)
    assert results["mean_squared_error"] == pytest.approx(np.square(rows).mean(), rel=1e-5)
    assert float(counter.metrics_variables[-1].numpy()) == ROWS
    if "shuffled" not in kind:  # a sum over a batch of other examples is another
        assert results["loss"] == pytest.approx(alone.evaluate(IDS, ZEROS, 7, verbose=0)[0], rel=1e-4)


def test_predict_returns_every_row_in_order(counter):
    counter.layers[0].set_weights([np.repeat(IDS[:, None], 4, 1)])
    order = np.random.default_rng(0).permutation(ROWS)
    np.testing.assert_array_equal(counter.predict(order, batch_size=7, verbose=0)[:, 0], order)
    np.testing.assert_array_equal(
        counter.predict(tf.data.Dataset.from_tensor_slices(order).batch(11), verbose=0)[:, 0], order
    )
    np.testing.assert_array_equal(counter.predict_on_batch(order[:5])[:, 0], order[:5])


def test_train_on_batch_returns_what_it_did(counter):
    logs = counter.train_on_batch(IDS[:3], ZEROS[:3], return_dict=True)
    assert logs["loss"] == pytest.approx(0.0) and counter.get_weights()[0][:4, 0].tolist() == [1, 1, 1, 0]
    counter.reset_metrics()  # the newest Keras does so itself
    logs = counter.test_on_batch(IDS[:3], ZEROS[:3], return_dict=True)
    assert logs["loss"] == pytest.approx(-12.0)


def test_sample_and_class_weights(strategy):
    x = np.arange(8)
    y = np.array([0, 1] * 4, np.float32)
    with strategy.scope():
        model = keras.Sequential(
            [keras.Input((), dtype="int64"), keras.layers.Embedding(8, 1, embeddings_initializer="zeros")]
        )
        model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    model.fit(x, y, sample_weight=np.arange(8.0), batch_size=1, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0][:, 0], 2 * y * x, rtol=1e-6)
    model.layers[0].set_weights([np.zeros((8, 1))])
    model.fit(x, y, class_weight={0: 1.0, 1: 0.25}, batch_size=1, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0][:, 0], 0.5 * y, rtol=1e-6)


def test_callbacks_see_every_batch(counter):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((batch, sorted(logs)))

    counter.fit(pairs().batch(7), epochs=2, verbose=0, callbacks=[Watch()])
    assert [batch for batch, _ in seen] == list(range(9)) * 2
    assert all(names == ["loss", "mean_squared_error"] for _, names in seen)


def test_steps_per_execution(strategy):
    with strategy.scope():
        model = keras.Sequential(
            [keras.Input((), dtype="int64"), keras.layers.Embedding(ROWS, 4, embeddings_initializer="zeros")]
        )
        model.compile(optimizer=keras.optimizers.SGD(1.0), loss=NegativeSum(), steps_per_execution=4)
    model.fit(pairs().batch(5), epochs=2, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], np.full((ROWS, 4), 2.0))
    assert model.predict(IDS, batch_size=9, verbose=0).shape == (ROWS, 4)


def test_early_stopping_and_schedules(counter):
    stopper = keras.callbacks.EarlyStopping(monitor="mean_squared_error", patience=0, mode="min")
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 1.0 if epoch == 0 else 2.0)
    history = counter.fit(pairs().batch(7), epochs=9, verbose=0, callbacks=[stopper, rates])
    assert len(history.history["loss"]) == 2  # squares only grow
    assert counter.get_weights()[0].max() == 3.0


def test_learning_rate_schedule_object(strategy):
    with strategy.scope():
        model = keras.Sequential(
            [keras.Input((), dtype="int64"), keras.layers.Embedding(ROWS, 4, embeddings_initializer="zeros")]
        )
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([9], [1.0, 0.0])
        model.compile(optimizer=keras.optimizers.SGD(schedule), loss=NegativeSum())
    model.fit(pairs().batch(6), epochs=3, verbose=0)
    # Ten steps an epoch, at whose end all workers have met: the first is trained at rate 1, the others at 0.
    np.testing.assert_array_equal(model.get_weights()[0], np.ones((ROWS, 4)))


def test_custom_steps(strategy):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.table = keras.layers.Embedding(ROWS, 2, embeddings_initializer="zeros")

        def call(self, ids):
            return self.table(ids)

        def train_step(self, data):
            ids, _ = data
            with tf.GradientTape() as tape:
                loss = -tf.reduce_sum(self(ids, training=True))
            self.optimizer.apply_gradients(
                zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables, strict=True)
            )
            return {"my_loss": loss, "batch": tf.shape(ids)[0]}

        def test_step(self, data):
            return {"most": tf.reduce_max(self(data[0]))}

    with strategy.scope():
        model = Model()
        model.compile(optimizer=keras.optimizers.SGD(1.0))
    logs = model.fit(pairs().batch(6), validation_data=pairs().batch(ROWS), epochs=2, verbose=0).history
    np.testing.assert_array_equal(model.get_weights()[0], np.full((ROWS, 2), 2.0))
    assert sorted(logs) == ["batch", "my_loss", "val_most"]
    assert logs["batch"] == [6, 6] and logs["val_most"] == [1.0, 2.0]


def test_validation(counter):
    history = counter.fit(pairs().batch(7), validation_data=pairs().batch(9), epochs=2, verbose=0)
    assert history.history["val_mean_squared_error"] == pytest.approx([1.0, 4.0])
    history = counter.fit(IDS, ZEROS, batch_size=5, validation_split=0.5, epochs=1, verbose=0)
    assert history.history["val_mean_squared_error"] == pytest.approx([4.0])


def test_parts_made_outside_the_scope_are_taken_in(strategy):
    optimizer, metric = keras.optimizers.Adam(0.1), keras.metrics.MeanAbsoluteError()
    with strategy.scope():
        model = keras.Sequential([keras.Input((), dtype="int64"), keras.layers.Embedding(ROWS, 4)])
    model.compile(optimizer=optimizer, loss="mse", metrics=[metric])
    model.fit(pairs().batch(7), epochs=2, verbose=0)
    assert int(optimizer.iterations) == 18
    assert isinstance(metric.variables[0]._value, SumVariable)
    assert float(metric.count) == ROWS  # the examples of the last epoch, none lost and none twice


def test_what_has_no_row_wise_form_is_refused(strategy):
    import tfps.errors

    def fit(optimizer, **arguments):
        with strategy.scope():
            model = keras.Sequential([keras.Input((), dtype="int64"), keras.layers.Embedding(ROWS, 4, **arguments)])
            model.compile(optimizer=optimizer, loss="mse")
            model.fit(IDS, ZEROS, verbose=0)

    for optimizer, arguments, name in [
        (keras.optimizers.Lamb(), {}, "Lamb"),
        (keras.optimizers.SGD(use_ema=True), {}, "use_ema"),
        (keras.optimizers.SGD(), {"embeddings_constraint": "non_neg"}, "constraint"),
    ]:
        with pytest.raises(tfps.errors.UnsupportedError, match=name):
            fit(optimizer, **arguments)


def test_an_id_out_of_range_names_table_id_and_range(counter):
    with pytest.raises(Exception, match=r"embeddings.*below 60.*77"):
        counter.fit(np.array([1, 77] * 30), ZEROS, batch_size=2, verbose=0)
    counter.set_weights([ZEROS])
    counter.fit(IDS, ZEROS, batch_size=7, verbose=0)  # the failure is over with the call that raised it
    np.testing.assert_array_equal(counter.get_weights()[0], np.ones((ROWS, 4)))


def test_ids_that_float32_rounds_are_refused(strategy):
    """Keras makes float32 of an input that has no dtype, and two ids of a large table could be one then."""
    with strategy.scope():
        model = keras.Sequential([keras.layers.Embedding((1 << 24) + 1, 1, embeddings_initializer="zeros")])
        model.compile("sgd", "mse")
    expected = 'integers from the input on. Received: float32.*Valid: keras.Input.*dtype="int64"'
    with pytest.raises(Exception, match=expected):
        model.fit(np.ones((4, 1), np.int64), np.ones((4, 1, 1)), verbose=0)


def test_a_fit_that_fails_changes_nothing_after_it(counter, no_young):
    ids = np.ones(1_000_000, np.int64)
    ids[150_000] = 77  # the first closure of worker 1 fails at once, while worker 0 has 100,000 rows of its own to do
    with pytest.raises(Exception, match="below 60"):
        counter.fit(ids, np.zeros((len(ids), 4), np.float32), batch_size=100_000, shuffle=False, verbose=0)
    after = counter.get_weights()[0]
    time.sleep(1.0)
    np.testing.assert_array_equal(counter.get_weights()[0], after)


def test_a_fit_that_is_stopped_in_an_epoch_waits_for_what_is_under_way(counter):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 2

    counter.fit(pairs().batch(1).map(slow_first_batch), epochs=1, verbose=0, callbacks=[Stop()])
    steps = int(counter.optimizer.iterations)
    assert 3 <= steps < ROWS
    assert counter.get_weights()[0][:, 0].sum() == float(counter.metrics_variables[-1].numpy()) == steps


def test_a_model_built_by_its_first_fit_has_tables(strategy):
    from tfps.embedding.table import Table

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.table = keras.layers.Embedding(ROWS, 2)
            self.drop = keras.layers.Dropout(0.5)

        def call(self, ids, training=False):
            return self.drop(self.table(ids), training=training)

    with strategy.scope():
        models = [Model(), keras.Sequential([keras.layers.Embedding(ROWS, 2), keras.layers.Dropout(0.5)])]
        for model in models:
            model.compile("adagrad", "mse", metrics=["mae"])
    for model in models:
        model.fit(IDS, ZEROS[:, :2], verbose=0)
        assert isinstance(model.layers[0].embeddings._value, Table)


@pytest.mark.parametrize("clip", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_clipping_sees_the_sum_of_a_rows_gradients(strategy, clip):
    """Two lookups of one table in a step: each id's gradients add up to -2 before they are clipped."""
    ids = keras.Input((2,), dtype="int64")
    with strategy.scope():
        table = keras.layers.Embedding(ROWS, 1, embeddings_initializer="zeros")
        model = keras.Model(ids, keras.layers.Add()([table(ids[:, 0]), table(ids[:, 1])]))
        model.compile(optimizer=keras.optimizers.SGD(1.0, **{clip: 1.0}), loss=NegativeSum())
    model.fit(np.array([[3, 3]]), np.zeros((1, 1)), verbose=0)
    assert model.get_weights()[0][3, 0] == pytest.approx(1.0)


def test_a_table_of_another_type_is_refused(strategy):
    import tfps.errors

    with strategy.scope(), pytest.raises(tfps.errors.UnsupportedError, match="float32"):
        keras.layers.Embedding(ROWS, 2, dtype="float16").build()


def test_ragged_batches_everywhere(strategy):
    import tfps

    lengths = np.arange(ROWS) % 4 + 1
    ragged = tf.RaggedTensor.from_row_lengths(np.repeat(IDS, lengths), lengths)
    with strategy.scope():
        bag = tfps.layers.EmbeddingBag(ROWS, 1, combiner="sum", embeddings_initializer="zeros")
        model = keras.Sequential([bag])  # `keras.Input(ragged=True)` is not there before Keras 3.9
        model.compile(optimizer=keras.optimizers.SGD(1.0), loss=NegativeSum())
    model.fit(tf.data.Dataset.from_tensor_slices((ragged, ZEROS[:, :1])).batch(7), epochs=1, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0][:, 0], lengths)
    np.testing.assert_array_equal(model.predict(ragged, batch_size=7, verbose=0)[:, 0], lengths**2)
    model.train_on_batch(ragged[:2], ZEROS[:2, :1])
    assert model.get_weights()[0][:3, 0].tolist() == [2, 4, 3]
