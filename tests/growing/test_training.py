"""Tables that grow train as fixed tables do, in every mode, and count every update."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.growing.models import ROWS, counter, counts_of, fixed, growing, model_of, rows_of, table_of

IDS = np.random.default_rng(1).zipf(1.3, (20 * 32, 3)) % ROWS
LABELS = (IDS[:, :1] % 7).astype("float32")
EXTREME = np.array([0, -1, 1, 2**62, 2**62 + 1, -(2**62), 2**63 - 1, -(2**63), 2**53 + 1, 12345678901234567])

MODES = {
    "asynchronous": lambda optimizer: optimizer,
    "geo": lambda optimizer: tfps.optimizers.Geo(optimizer, push_every=3),
    "geo, overlap": lambda optimizer: tfps.optimizers.Geo(optimizer, push_every=3, overlap=True),
    "sync": tfps.optimizers.Sync,
}


def fit(model, epochs=2):
    model.fit(IDS, LABELS, batch_size=32, epochs=epochs, shuffle=False, verbose=0)
    return model


def assert_same_rows(model, other, paths):
    for path in paths:
        ours, theirs = table_of(model, path), table_of(other, path)
        assert set(ours) <= set(theirs) and len(ours) > 20
        for one, row in ours.items():
            np.testing.assert_allclose(row, theirs[one], rtol=2e-5, atol=2e-6, err_msg=f"{path} {one}")


@pytest.mark.parametrize("mode", MODES)
def test_one_worker_gives_the_rows_and_slots_of_a_fixed_table(one_worker, mode):
    optimizer = MODES[mode]
    ours = fit(model_of(one_worker, growing, optimizer(keras.optimizers.Adagrad(0.1))))
    theirs = fit(model_of(one_worker, fixed, optimizer(keras.optimizers.Adagrad(0.1))))
    assert_same_rows(ours, theirs, ["wide/embeddings", "narrow/embeddings"])
    assert_same_rows(ours, theirs, ["wide_embeddings_accumulator", "narrow_embeddings_accumulator"])
    np.testing.assert_allclose(ours.predict(IDS, verbose=0), theirs.predict(IDS, verbose=0), rtol=1e-4, atol=1e-5)
    one, other = ours.evaluate(IDS, LABELS, verbose=0), theirs.evaluate(IDS, LABELS, verbose=0)
    np.testing.assert_allclose(one, other, rtol=1e-4)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "amsgrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01),
    "adamax": lambda: keras.optimizers.Adamax(0.01),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, centered=True, momentum=0.5),
    "adadelta": lambda: keras.optimizers.Adadelta(1.0),
    "ftrl": lambda: keras.optimizers.Ftrl(0.1),
    "lion": lambda: keras.optimizers.Lion(0.001),
    "rowwise": lambda: tfps.optimizers.RowwiseAdagrad(0.1),
}


# Their rows are compared with Keras's in tests/ops; here a few stand for slots of each kind.
FEW = ("momentum", "adam", "ftrl", "rowwise")


@pytest.mark.parametrize(
    "name", [one if one in FEW else pytest.param(one, marks=pytest.mark.slow) for one in OPTIMIZERS]
)
def test_every_optimizer(one_worker, name):
    ours = fit(model_of(one_worker, growing, OPTIMIZERS[name]()), 1)
    theirs = fit(model_of(one_worker, fixed, OPTIMIZERS[name]()), 1)
    assert_same_rows(ours, theirs, ["wide/embeddings", "narrow/embeddings"])


@pytest.mark.parametrize("mode", ["asynchronous", "geo", "sync"])
def test_two_workers_lose_no_update_of_any_id(strategy, mode):
    rng = np.random.default_rng(5)
    ids = np.concatenate([rng.zipf(1.2, 4000), rng.integers(-(2**63), 2**63 - 1, 2000), np.repeat(EXTREME, 20)])
    rng.shuffle(ids)
    ids = ids[: len(ids) // 64 * 64].reshape(-1, 2)
    merge = {"merge": "sum"} if mode == "geo" else {}
    wrap = {"geo": lambda o: tfps.optimizers.Geo(o, push_every=4, **merge), "sync": tfps.optimizers.Sync}
    model = counter(strategy, wrap.get(mode, lambda o: o)(keras.optimizers.SGD(1.0)))
    model.fit(ids, np.zeros(len(ids)), batch_size=16, verbose=0)
    found, counted = rows_of(model.get_layer("counts")), counts_of(ids)
    assert set(found) == set(counted)
    # A synchronous step takes the mean over the workers that have a batch.
    if mode == "sync":
        assert all(row[0] < 0 for row in found.values())
        assert -sum(row[0] for row in found.values()) == pytest.approx(ids.size / 2, rel=0.01)
    else:
        assert {one: -row[0] for one, row in found.items()} == counted


def test_evaluation_and_prediction_make_no_rows(strategy):
    model = counter(strategy)
    ids = np.arange(64).reshape(-1, 2)
    model.fit(ids, np.zeros(32), batch_size=8, verbose=0)
    before = model.get_layer("counts").counts()
    other = ids + 1000
    assert model.predict(other, batch_size=8, verbose=0).tolist() == [0.0] * 32
    model.evaluate(other, np.zeros(32), batch_size=8, verbose=0)
    model(other[:2])
    after = model.get_layer("counts").counts()
    assert (before.rows, before.admitted) == (after.rows, after.admitted) == (64, 64)


def test_strings_are_ids_by_their_fingerprint(strategy):
    model = counter(strategy, dtype="string")
    words = np.array([["a", "hello"], ["a", ""]] * 8, object)
    model.fit(tf.data.Dataset.from_tensor_slices((words, np.zeros(16))).batch(4), verbose=0)
    # FARM_FINGERPRINT of BigQuery gives the same numbers.
    found = {one: -row[0] for one, row in rows_of(model.get_layer("counts")).items()}
    assert found == {-5528939962900187677: 16.0, -5436999610281751320: 8.0, -7286425919675154353: 8.0}
    assert tfps.layers.fingerprint(tf.constant([["a"]])).numpy().tolist() == [[-5528939962900187677]]


def test_a_frozen_layer_keeps_its_rows_and_learns_again(strategy):
    model = model_of(strategy, growing, "sgd")
    fit(model, 1)
    wide = model.get_layer("wide")
    wide.trainable = False
    with strategy.scope():
        model.compile("adam", "mse")
    before = rows_of(wide)
    fit(model, 1)
    after = rows_of(wide)
    assert all((after[one] == row).all() for one, row in before.items()) and len(after) == len(before)
    wide.trainable = True
    with strategy.scope():
        model.compile("adam", "mse")
    fit(model, 1)
    assert any((rows_of(wide)[one] != row).any() for one, row in before.items())


def test_a_bag_pools_as_an_embedding_bag_does(one_worker):
    bags = tf.ragged.constant([[1, 2, 2], [], [5], [1, 7, 9, 9]] * 8, dtype=tf.int64)
    labels = np.arange(32, dtype="float32")[:, np.newaxis]
    results = []
    for layer in (
        lambda: tfps.layers.DynamicEmbeddingBag(DIM_OF_BAG, "sqrtn", keras.initializers.RandomUniform(seed=3)),
        lambda: tfps.layers.EmbeddingBag(20, DIM_OF_BAG, "sqrtn", keras.initializers.RandomUniform(seed=3)),
    ):
        keras.utils.set_random_seed(3)
        with one_worker.scope():
            model = keras.Sequential([keras.Input((None,), dtype="int64", ragged=True), layer(), keras.layers.Dense(1)])
            model.compile("adagrad", "mse")
        data = tf.data.Dataset.from_tensor_slices((bags, labels)).batch(8)
        model.fit(data, epochs=2, verbose=0, shuffle=False)
        results.append(model.predict(data, verbose=0))
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)


DIM_OF_BAG = 3


def test_a_hand_written_loop_with_nn_lookups(strategy):
    model = counter(strategy)
    table, optimizer = model.get_layer("counts").embeddings, model.optimizer
    with strategy.scope():
        optimizer.build([table])

    @tf.function
    def train(ids):
        def step(ids):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tfps.nn.embedding_lookup(table, ids))
            optimizer.apply_gradients(zip(tape.gradient(loss, [table]), [table], strict=True))
            return loss

        return strategy.run(step, args=(ids,))

    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    for _ in range(6):
        coordinator.schedule(train, args=(tf.constant([3, -3, 3], tf.int64),))
    coordinator.join()
    assert {one: -row[0] for one, row in rows_of(model.get_layer("counts")).items()} == {3: 12.0, -3: 6.0}


def test_layers_share_a_table(strategy):
    with strategy.scope():
        inputs = keras.Input((2,), dtype="int64")
        shared = tfps.layers.DynamicEmbedding(1, "zeros", name="shared")
        outputs = keras.ops.sum(shared(inputs[:, :1]) + shared(inputs[:, 1:]), axis=(1, 2))
        model = keras.Model(inputs, outputs)
        model.compile(keras.optimizers.SGD(1.0), loss=lambda _, y: keras.ops.sum(y))
    model.fit(np.array([[4, 4], [4, 9]] * 8), np.zeros(16), batch_size=4, verbose=0)
    assert {one: -row[0] for one, row in rows_of(shared).items()} == {4: 24.0, 9: 8.0}


def test_gradients_of_a_repeated_id_are_summed_whatever_the_strategy_does(strategy, monkeypatch):
    monkeypatch.setattr(strategy.factory, "keep_repeats", True)
    model = counter(strategy, "adagrad")
    ids = np.array([[2**62 + 5, 2**62 + 5], [-3, 2**62 + 5]] * 4)
    model.fit(ids, np.zeros(8), batch_size=8, verbose=0)
    # One step of Adagrad: the root of the sum of squares is that of the summed gradient, so each row moves as far.
    moved = {one: -row[0] for one, row in rows_of(model.get_layer("counts")).items()}
    assert moved == {2**62 + 5: pytest.approx(0.001, rel=1e-2), -3: pytest.approx(0.001, rel=1e-2)}
