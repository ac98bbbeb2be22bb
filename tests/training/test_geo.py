"""GEO: windows of batches on a worker's own rows give what their batches give, and every delta arrives once."""

import contextlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.errors import ConfigError, UnsupportedError
from tfps.training.geo.length import LONGEST, Length

ROWS = 300
INNER = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adagrad": lambda: keras.optimizers.Adagrad(keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.9)),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01),
    "amsgrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "adamax": lambda: keras.optimizers.Adamax(0.01),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "adadelta": lambda: keras.optimizers.Adadelta(1.0),
}


def fit(strategy, optimizer, fed=False):
    """Weights and slots after two epochs of 20 batches, with two tables, one of them looked up twice."""
    keras.utils.set_random_seed(7)
    random = np.random.default_rng(1)
    ids = np.stack([random.permutation(ROWS)[:96].reshape(32, 3) for _ in range(20)]).reshape(-1, 3)
    with strategy.scope() if strategy else contextlib.nullcontext():
        inputs = keras.Input((3,), dtype="int64")
        wide, narrow = keras.layers.Embedding(ROWS, 4), keras.layers.Embedding(ROWS, 1)
        rows = [keras.layers.Flatten()(wide(inputs[:, :2])), wide(inputs[:, 2]), narrow(inputs[:, 1])]
        model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(rows)))
        model.compile(optimizer=optimizer, loss="mse")
    data = tf.data.Dataset.from_tensor_slices((ids, (ids[:, :1] % 7).astype("float32"))).batch(32)
    if fed:
        given = list(data)
        data = tf.data.Dataset.from_generator(lambda: given, output_signature=data.element_spec)
    model.fit(data, epochs=2, verbose=0)
    assert int(model.optimizer.iterations) == 40
    return [*model.get_weights(), *(np.asarray(v) for v in model.optimizer.variables[2:])]


@pytest.mark.parametrize(("name", "fed"), [("sgd", True), ("adagrad", False)], ids=["sgd-fed", "adagrad-shipped"])
def test_one_worker_gives_what_one_process_gives(one_worker, name, fed):
    found = fit(one_worker, tfps.optimizers.Geo(INNER[name](), push_every=7), fed)
    for ours, theirs in zip(found, fit(None, INNER[name]()), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)


# Three forms of slots: one that decays, two that count steps, and two that depend on each other. The rest are slow.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "momentum" else pytest.mark.slow)
        for name in sorted(set(INNER) - {"sgd", "adagrad"})
    ],
)
def test_momenta_rest_while_their_row_is_away_as_without_geo(one_worker, name):
    found = fit(one_worker, tfps.optimizers.Geo(INNER[name](), push_every=7))
    for ours, theirs in zip(found, fit(one_worker, INNER[name]()), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


class NegativeSum(keras.losses.Loss):
    """Its gradient is -1 for every looked-up element, so with SGD at rate 1 a row counts how often it was seen."""

    def __init__(self):
        super().__init__(reduction="sum")

    def call(self, y_true, y_pred):
        return -keras.ops.sum(y_pred, axis=-1)


def counter(strategy, **mode):
    with strategy.scope():
        table = keras.layers.Embedding(ROWS, 4, embeddings_initializer="zeros")
        model = keras.Sequential([keras.Input((2,), dtype="int64"), table])
        optimizer = tfps.optimizers.Geo(keras.optimizers.SGD(1.0), **mode)
        model.compile(optimizer, NegativeSum(), metrics=[keras.metrics.MeanSquaredError()])
    return model


@pytest.mark.parametrize(
    ("push_every", "fed"),
    [(1, True), (5, False), (1000, False), (1000, True)],
    ids=["1-fed", "5-shipped", "1000-shipped", "1000-fed"],
)
def test_every_delta_arrives_once(strategy, push_every, fed):
    ids = np.random.default_rng(0).integers(0, ROWS, (1003, 2))
    model = counter(strategy, push_every=push_every, merge="sum")
    x, y = ids, np.zeros((1003, 2, 4), np.float32)
    if fed:
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
        batches = list(data)
        x, y = tf.data.Dataset.from_generator(lambda: batches, output_signature=data.element_spec), None
    history = model.fit(x, y, batch_size=None if fed else 8, epochs=2, verbose=0)
    seen = np.bincount(ids.reshape(-1), minlength=ROWS)
    np.testing.assert_array_equal(model.get_weights()[0], np.repeat(2.0 * seen[:, None], 4, 1))
    assert int(model.optimizer.iterations) == 2 * 126 and len(history.history["loss"]) == 2


@pytest.mark.parametrize("fed", [False, True], ids=["shipped", "fed"])
def test_an_epoch_shorter_than_a_window_is_shared_out(strategy, monkeypatch, fed):
    order, used = strategy.pool.run_later, []
    monkeypatch.setattr(strategy.pool, "run_later", lambda worker, run: (used.append(worker), order(worker, run)))
    batch = np.ones((8, 2), np.int64), np.zeros((8, 2, 4), np.float32)
    data = tf.data.Dataset.from_tensors(batch).repeat()
    if fed:
        data = tf.data.Dataset.from_generator(lambda: iter([batch] * 40), output_signature=data.element_spec)
    model = counter(strategy, push_every=1000, merge="sum")
    model.optimizer.iterations.assign(1000)  # as after so many: a young model has shorter windows yet
    model.fit(data, steps_per_epoch=20, verbose=0)
    assert set(used) == set(range(strategy.num_workers))
    assert int(model.optimizer.iterations) == 1020 and model.get_weights()[0][1, 0] == 2 * 8 * 20


def test_mean_is_the_mean_of_the_workers(strategy):
    model = counter(strategy, push_every=10, merge="mean")
    model.fit(np.ones((640, 2), np.int64), np.zeros((640, 2, 4), np.float32), batch_size=8, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0][1], 2 * 640 / strategy.num_workers, rtol=1e-5)


def test_a_row_that_one_worker_moves_moves_whole_with_cap(strategy):
    model = counter(strategy, push_every=10)
    ids = np.arange(ROWS).reshape(-1, 2)
    model.fit(ids, np.zeros((ROWS // 2, 2, 4), np.float32), batch_size=4, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], np.ones((ROWS, 4)))


def test_workers_that_move_one_row_alike_are_capped(strategy):
    """Each row of every batch is row 1: what both workers' windows come to is between one of them and both."""
    model, whole = counter(strategy, push_every=20), 2 * 640
    model.fit(np.ones((640, 2), np.int64), np.zeros((640, 2, 4), np.float32), batch_size=8, verbose=0)
    moved = model.get_weights()[0][1]
    assert np.all(moved == moved[0]) and whole / strategy.num_workers <= moved[0] <= whole
    assert int(model.optimizer.iterations) == 80


def test_the_share_of_a_capped_delta(strategy):
    from tfps.training.exchange import damping

    random = np.random.default_rng(3)
    delta, others = random.normal(size=(2, 50, 4)).astype(np.float32)
    others[:10], others[10:20], others[20:30] = 0, delta[10:20], 2 * delta[20:30]
    expected = []
    for d, m in zip(delta, others, strict=True):
        expected.append(min(1.0, max(0.0, 1.5 - max(0.0, float(d @ m) / float(d @ d)))))
    np.testing.assert_allclose(damping(delta, others, axis=1)[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert expected[0] == 1.0 and abs(expected[10] - 0.5) < 1e-5 and expected[20] == 0.0
    assert float(tf.reshape(damping(np.zeros(3, np.float32), np.ones(3, np.float32)), [])) == 1.0  # nothing moved


def test_a_step_within_a_window_exchanges_nothing(strategy):
    from tests.training.test_traffic import graphs

    model = counter(strategy, push_every=10, merge="mean")  # "cap" looks at the rows once more, after the steps
    model.fit(np.ones((640, 2), np.int64), np.zeros((640, 2, 4), np.float32), batch_size=8, verbose=0)
    closure, *functions = graphs(model)  # the loops over batches and over steps are among the functions
    assert any(node.op == "TfpsSegmentSumRows" for nodes in functions for node in nodes)
    # Servers do something only where a push that they have not seen is taken, which is outside of the loops.
    at_servers = [node.name for nodes in functions for node in nodes if "/job:ps/" in node.device]
    assert at_servers and all(re.match(r"tfps_(exchange|push)\w*/cond", name) for name in at_servers)
    places = [node.device for node in closure if node.op == "TfpsGatherRows"]
    assert len(places) == len(set(places)) > 0 and all("/job:ps/" in place for place in places)


@pytest.mark.parametrize(("merge", "workers", "warns"), [("sum", 4, True), ("sum", 2, False), ("cap", 4, False)])
def test_what_may_diverge_is_said(strategy, caplog, merge, workers, warns):
    from tfps.keras.geo import window_settings

    model = counter(strategy, merge=merge)
    model.optimizer.build(model.trainable_variables)
    with caplog.at_level("WARNING", "tfps"):
        window_settings(model, model.optimizer.tfps_mode, workers)
    assert ["may diverge" in record.getMessage() for record in caplog.records] == [True] * warns


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"push_every": 0}, r"push_every.*at least 1.*Received: 0"),
        ({"push_every": True}, r"push_every.*Received: True"),
        ({"push_every": "often"}, r"push_every.*Received: 'often'"),
        ({"merge": "max"}, r"merge.*mean.*sum.*Received: 'max'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        tfps.optimizers.Geo(keras.optimizers.SGD(0.1), **arguments)


@pytest.mark.parametrize("optimizer", [keras.optimizers.Ftrl(), keras.optimizers.Lamb()])
def test_an_optimizer_whose_deltas_mean_nothing_is_refused(optimizer):
    with pytest.raises(UnsupportedError, match=rf"Received: {type(optimizer).__name__}. Valid: Adadelta.* SGD"):
        tfps.optimizers.Geo(optimizer)


@pytest.mark.parametrize("given", [None, 3, "nope", keras.layers.Dense])
@pytest.mark.parametrize("mode", [tfps.optimizers.Geo, tfps.optimizers.Sync])
def test_what_is_no_optimizer_is_named(mode, given):
    with pytest.raises(ConfigError, match="`optimizer` must be a Keras optimizer, or the name of one.*Received: "):
        mode(given)


def test_numbers_of_numpy_are_numbers():
    optimizer = tfps.optimizers.Geo("sgd", push_every=np.int64(3))
    assert optimizer.tfps_mode.push_every == 3 and type(optimizer.tfps_mode.push_every) is int


def test_ids_that_depend_on_rows_are_refused_where_windows_overlap(strategy):
    class Chained(keras.Model):
        def __init__(self):
            super().__init__()
            self.table = keras.layers.Embedding(ROWS, 4)

        def call(self, ids):
            first = self.table(ids)
            return self.table(keras.ops.cast(first[:, 0] > 0, "int64"))

    with strategy.scope():
        model = Chained()
        model.compile(tfps.optimizers.Geo("sgd", overlap=True), "mse")
    with pytest.raises(UnsupportedError, match=r"ids of every lookup must follow from the inputs.*overlap=False"):
        model.fit(np.ones(8, np.int64), np.zeros((8, 4), np.float32), verbose=0)


def test_the_mode_is_saved_with_the_model(strategy, tmp_path):
    model = counter(strategy, push_every=3, merge="sum")
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(model.optimizer))
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert (optimizer.tfps_mode.push_every, optimizer.tfps_mode.merge) == (3, "sum")
    model.compile(tfps.optimizers.Geo(keras.optimizers.Adagrad(0.25), push_every=4), "mse")
    model.fit(np.ones((8, 2), np.int64), np.zeros((8, 2, 4), np.float32), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.tfps_mode == model.optimizer.tfps_mode
    loaded.fit(np.ones((8, 2), np.int64), np.zeros((8, 2, 4), np.float32), verbose=0)  # and trains without a cluster
    assert int(loaded.optimizer.iterations) == 2


def test_the_drift_of_an_epoch_is_in_its_logs(one_worker):
    model = counter(one_worker, push_every=5)
    history = model.fit(np.ones((160, 2), np.int64), np.zeros((160, 2, 4), np.float32), batch_size=8, verbose=0)
    # Each of 4 windows moves the 4 elements of one row by 1 for each of its 5 * 8 * 2 lookups.
    np.testing.assert_allclose(history.history["geo_delta_norm"], [80 * 2.0])
    assert "geo_conflicts" not in history.history  # nobody else is there


def test_rows_that_others_moved_are_counted(strategy):
    model = counter(strategy, push_every=4)
    model.optimizer.iterations.assign(1_000_000)  # an old model, which all workers train at once
    ids = np.ones((64 * 8, 2), np.int64)
    data = ids, np.zeros((64 * 8, 2, 4), np.float32)
    conflicts = []
    for _ in range(50):  # until two windows were under way at once, which is up to the machine
        conflicts += model.fit(*data, batch_size=8, verbose=0).history["geo_conflicts"]
        if conflicts[-1] > 0.0:
            break
    assert conflicts[-1] > 0.0 and all(0.0 <= fraction <= 1.0 for fraction in conflicts)
    evaluated = model.evaluate(*data, verbose=0, return_dict=True)
    assert "geo_delta_norm" not in evaluated


@pytest.mark.parametrize(
    ("of_window", "of_step", "found"),
    [(1.0, 1.0, 16), (10.0, 1.0, 256), (1e6, 1.0, 1024), (0.0, 1.0, 4)],
)
def test_auto_makes_windows_longer_while_that_pays(of_window, of_step, found):
    """The cost of a step in a window of K is of_window / K + of_step: four times as long is worth it above 10 %."""
    length = Length()
    for _ in range(100):
        length.add_timing(length.steps, of_window + length.steps * of_step)
        length.add_timing(length.steps + 1, 0.0)  # the last of an epoch, of another length, tells nothing
    assert length.steps == found and (length.settled or found == LONGEST)


def test_auto_trains_each_batch_once(strategy):
    model = counter(strategy, push_every="auto", merge="sum")
    model.optimizer.iterations.assign(1_000_000)
    ids = np.random.default_rng(0).integers(0, ROWS, (1003, 2))
    model.fit(ids, np.zeros((1003, 2, 4), np.float32), batch_size=8, epochs=2, verbose=0)
    seen = np.bincount(ids.reshape(-1), minlength=ROWS)
    np.testing.assert_array_equal(model.get_weights()[0], np.repeat(2.0 * seen[:, None], 4, 1))
    assert model.train_function.mode.length.steps > 1
