"""Several steps a turn of the loop: nothing changes, whatever is left of an input or of a closure."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfps.training import traced_closures, turns
from tfps.training.closure import Closure
from tfps.training.turns import steps_of_turn

ROWS, SIZE = 50, 8


@pytest.mark.parametrize(
    ("operations", "most", "steps"),
    [(200, 4, 4), (200, 3, 3), (200, 1, 1), (800, 4, 3), (1_200, 4, 2), (2_500, 4, 1), (90_000, 4, 1), (0, 4, 4)],
)
def test_large_steps_have_turns_of_their_own(operations, most, steps):
    assert steps_of_turn(operations, most) == steps


def ids_of(batches):
    """Each batch holds an id at most once, where Keras's own sparse updates are exact."""
    random = np.random.default_rng(3)
    return np.stack([random.permutation(ROWS)[:SIZE] for _ in range(batches)]).reshape(-1)


def of_unknown_length(data):
    """Closures over it are as long as they can be."""
    return data.filter(lambda *_: True)


def fed(data):
    """Read by the chief, which cannot know how many batches there are."""
    batches = list(data)
    return tf.data.Dataset.from_generator(lambda: batches, output_signature=data.element_spec)


def weights(strategy, batches, closure, read_by=of_unknown_length):
    keras.utils.set_random_seed(4)
    ids = ids_of(batches)
    with strategy.scope() if strategy else contextlib.nullcontext():
        given = keras.Input((), dtype="int64")
        rows = [keras.layers.Embedding(ROWS, dim)(given) for dim in (4, 3)]
        model = keras.Model(given, keras.layers.Dense(1)(keras.layers.Concatenate()(rows)))
        schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.9)
        model.compile(keras.optimizers.Adagrad(schedule), "mse", metrics=["mae"], steps_per_execution=closure)
    data = tf.data.Dataset.from_tensor_slices((ids, (ids % 7).astype("float32"))).batch(SIZE)
    if strategy is not None:
        data = read_by(data)
    history = model.fit(data, epochs=2, verbose=0).history
    return [*model.get_weights(), np.array(history["loss"]), np.array(history["mae"]), int(model.optimizer.iterations)]


@pytest.mark.parametrize(
    ("batches", "closure", "read_by"),
    [*((*sizes, of_unknown_length) for sizes in [(23, 8), (22, 6), (3, 4), (9, 3)]), (23, 8, fed), (9, 3, fed)],
)
def test_one_worker_gives_what_one_process_gives(one_worker, batches, closure, read_by):
    """Whole turns, turns and a rest in each closure, an input that ends within a turn."""
    for ours, theirs in zip(weights(one_worker, batches, closure, read_by), weights(None, batches, 1), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize(("prefetch", "read_by"), [(False, of_unknown_length), (True, of_unknown_length), (False, fed)])
def test_every_update_arrives_once(strategy, monkeypatch, prefetch, read_by):
    batches = 37
    monkeypatch.setattr(strategy, "prefetch_lookups", prefetch)
    ids = np.random.default_rng(0).integers(0, ROWS, (batches * SIZE - 3, 2))
    with strategy.scope():
        table = keras.layers.Embedding(ROWS, 4, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((2,), dtype="int64"), table])
        model.compile(keras.optimizers.SGD(1.0), lambda y, rows: -keras.ops.sum(rows))
    data = tf.data.Dataset.from_tensor_slices((ids, np.zeros((len(ids), 2, 4), "float32"))).batch(SIZE)
    model.fit(read_by(data), epochs=2, verbose=0)
    seen = np.bincount(ids.reshape(-1), minlength=ROWS)
    np.testing.assert_array_equal(model.get_weights()[0], np.repeat(2.0 * seen[:, None], 4, 1))
    assert int(model.optimizer.iterations) == 2 * batches


def test_longer_epochs_get_longer_turns(one_worker):
    with one_worker.scope():
        model = keras.Sequential([keras.Input((), dtype="int64"), keras.layers.Embedding(ROWS, 4)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
    traced = []
    for batches in (8, 8, 16, 64, 64, 8):
        ids = ids_of(batches)
        model.fit(ids, np.zeros((len(ids), 4), np.float32), batch_size=SIZE, verbose=0)
        (kind,) = model.train_function.closures.by_iterator  # graphs of shorter turns are dropped
        traced.append(kind)
    assert len(set(traced)) == 3  # turns of 1, 2 and 4 steps
    assert traced[0] == traced[1] and traced[3] == traced[4] == traced[5]
    assert int(model.optimizer.iterations) == 168


def turns_of_graphs(monkeypatch):
    """Returns a list that gets the steps in a turn of each graph, as it is traced."""
    traced, trace = [], traced_closures.TracedClosures._trace_iterator

    def note(closures, kind, spec, turn):
        traced.append(turn)
        return trace(closures, kind, spec, turn)

    monkeypatch.setattr(traced_closures.TracedClosures, "_trace_iterator", note)
    return traced


def test_longer_turns_take_over_in_an_epoch_and_change_no_number(one_worker, monkeypatch):
    long = weights(one_worker, 61, 8)
    traced = turns_of_graphs(monkeypatch)
    monkeypatch.setattr(traced_closures, "SHORT_STEPS", 24)
    for ours, theirs in zip(weights(one_worker, 61, 8), long, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert traced == [1, 4]


@pytest.mark.parametrize(("batches", "epochs", "turns"), [(64, 1, [1, 4]), (40, 1, [1]), (40, 2, [1, 3])])
def test_turns_become_longer_where_enough_steps_are_left(strategy, no_young, monkeypatch, batches, epochs, turns):
    traced = turns_of_graphs(monkeypatch)
    monkeypatch.setattr(traced_closures, "SHORT_STEPS", 24)
    with strategy.scope():
        table = keras.layers.Embedding(ROWS, 4, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((), dtype="int64"), table])
        model.compile(keras.optimizers.SGD(1.0), lambda y, rows: -keras.ops.sum(rows))
    ids = ids_of(batches)
    model.fit(ids, np.zeros((len(ids), 4), "float32"), batch_size=SIZE, epochs=epochs, shuffle=False, verbose=0)
    assert traced == turns
    seen = np.bincount(ids, minlength=ROWS)
    np.testing.assert_array_equal(model.get_weights()[0], np.repeat(1.0 * epochs * seen[:, None], 4, 1))
    assert int(model.optimizer.iterations) == epochs * batches


def freezable(strategy):
    """Returns a model whose last layer may be frozen."""
    with strategy.scope():
        model = keras.Sequential(
            [keras.Input((), dtype="int64"), keras.layers.Embedding(ROWS, 4), keras.layers.Dense(4, use_bias=False)]
        )
        model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def test_turns_become_longer_where_an_input_goes_on_in_further_epochs(one_worker, monkeypatch):
    """With `steps_per_epoch` the iterators stay, so a new epoch traces nothing."""
    traced = turns_of_graphs(monkeypatch)
    monkeypatch.setattr(traced_closures, "SHORT_STEPS", 24)
    model, ids = freezable(one_worker), ids_of(4)
    data = tf.data.Dataset.from_tensor_slices((ids, np.zeros((len(ids), 4), "float32"))).batch(SIZE).repeat()
    model.fit(data, steps_per_epoch=20, epochs=1, verbose=0)
    assert traced == [1]
    model.fit(data, steps_per_epoch=20, epochs=3, verbose=0)
    assert traced == [1, 4]
    assert int(model.optimizer.iterations) == 80


@pytest.mark.parametrize("unfrozen", [False, True])
def test_longer_turns_train_the_same_variables(one_worker, monkeypatch, unfrozen):
    """A change of `trainable` has no effect until `compile`, as in Keras: not in the middle of an epoch, nor after."""
    traced = turns_of_graphs(monkeypatch)
    monkeypatch.setattr(traced_closures, "SHORT_STEPS", 24)
    model = freezable(one_worker)
    dense = model.layers[-1]
    dense.trainable = not unfrozen
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = dense.get_weights()[0]
    change = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: setattr(dense, "trainable", unfrozen)
    )
    ids = ids_of(64)
    model.fit(ids, np.ones((len(ids), 4), "float32"), batch_size=SIZE, epochs=2, callbacks=[change], verbose=0)
    assert np.array_equal(before, dense.get_weights()[0]) == unfrozen
    assert traced == [1]
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(ids, np.ones((len(ids), 4), "float32"), batch_size=SIZE, verbose=0)
    assert traced == [1, 1, 4]


def test_large_steps_are_not_traced_again_for_the_same_turns(one_worker, monkeypatch):
    monkeypatch.setattr(turns, "_MOST_OPERATIONS", 1)
    monkeypatch.setattr(traced_closures, "SHORT_STEPS", 24)
    traced = turns_of_graphs(monkeypatch)
    weights(one_worker, 61, 8)
    assert traced == [1]


def test_batches_of_the_chief_go_out_several_at_a_time(one_worker, monkeypatch):
    with one_worker.scope():
        model = keras.Sequential([keras.Input((), dtype="int64"), keras.layers.Embedding(ROWS, 4)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
    ids, steps, read = ids_of(15), [], Closure.read
    data = tf.data.Dataset.from_tensor_slices((ids, np.zeros((len(ids), 4), np.float32))).batch(SIZE)

    def read_and_record(self, vector):
        steps.append(read(self, vector).steps)
        return read(self, vector)

    monkeypatch.setattr(Closure, "read", read_and_record)
    for _ in range(2):
        model.fit(fed(data), verbose=0)
    assert sum(steps) == 30
    assert set(steps) == {1, 4}  # those before the first is traced, and what is left at the end, go one by one
    assert steps[-6:] == [4, 4, 4, 1, 1, 1]
