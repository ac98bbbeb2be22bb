"""SkipGram: a window in one op is its pairs one after the other; elsewhere it is a model like others."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.ops.test_train_groups import brute_force_groups
from tests.ops.test_train_pairs import brute_force
from tfps.errors import ConfigError, UnsupportedError
from tfps.ops.draw_targets import Negatives, alias_table, draw_targets

WORDS, DIM, SEED = 60, 8, 11
COUNTS = np.arange(WORDS, 0, -1)
NEGATIVES = Negatives(WORDS, 3, alias_table(COUNTS**0.75))


def model(strategy, optimizer):
    keras.utils.set_random_seed(4)
    with strategy.scope() if strategy else contextlib.nullcontext():
        made = tfps.models.SkipGram(WORDS, DIM, 3, counts=COUNTS, seed=SEED)
        made.compile(optimizer)
    return made


def some_pairs(count):
    random = np.random.default_rng(2)
    centers = random.integers(0, WORDS, count)
    return centers, (centers + random.integers(1, 4, count)) % WORDS


def one_after_the_other(before, centers, contexts, rule, draws):
    """What a loop makes of the tables: window after window, the pairs of each in order, with the draws of a number."""
    tables = np.concatenate(before)
    slots = [np.full_like(tables, 0.1)] if rule == "adagrad" else []
    losses = 0.0
    parts = (np.split(ids, len(draws)) for ids in (centers, contexts))
    for number, c, x in zip(draws, *parts, strict=True):
        targets = draw_targets(x, NEGATIVES, [SEED, number]).numpy() + WORDS
        hyper = [0.2, 1e-7, 0.0] if rule == "adagrad" else [0.2, 0.0]
        deltas, loss = brute_force(rule, [tables, *slots], c, targets, hyper)
        tables, losses = tables + deltas[0], losses + loss
        slots = [slot + delta for slot, delta in zip(slots, deltas[1:], strict=True)]
    return [*np.split(tables, 2)], losses / len(centers)


def check_windows(scope, batches, in_order, rule, fed, overlap):
    """Trains by windows, and compares with `in_order`: a slow twin that trains one batch after the other."""
    inner = {"sgd": keras.optimizers.SGD, "adagrad": keras.optimizers.Adagrad}[rule](0.2)
    made = model(scope, tfps.optimizers.Geo(inner, push_every=5, overlap=overlap))
    start = made.get_weights()[:2]
    data = tf.data.Dataset.from_tensor_slices(batches).batch(20)
    if fed:
        each = list(data)
        data = tf.data.Dataset.from_generator(lambda: each, output_signature=data.element_spec)
    history = made.fit(data, verbose=0).history
    # A closure of overlapped windows, here 4, also draws for the one after its last.
    draws = [0, 1, 2, 3, 5, 6] if overlap else range(6)
    expected, loss = in_order(start, *batches, rule, draws)
    for ours, theirs in zip(made.get_weights(), expected, strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(history["loss"], [loss], rtol=1e-4)
    assert int(made.optimizer.iterations) == 30


@pytest.mark.parametrize(("fed", "overlap"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("rule", ["sgd", "adagrad"])
def test_windows_train_pair_after_pair(one_worker, rule, fed, overlap):
    check_windows(one_worker, some_pairs(600), one_after_the_other, rule, fed, overlap)


def some_groups(count, most=4):
    """Groups of 0 to `most` centers, [count, most] with -1 for none anywhere, and their contexts."""
    random = np.random.default_rng(2)
    contexts = random.integers(0, WORDS, count)
    centers = (contexts[:, None] + random.integers(1, 4, (count, most))) % WORDS
    return np.where(random.random(centers.shape) < 0.6, centers, -1), contexts


def group_after_group(before, centers, contexts, rule, draws):
    """As `one_after_the_other`, for groups."""
    tables = np.concatenate(before)
    slots = [np.full_like(tables, 0.1)] if rule == "adagrad" else []
    losses = 0.0
    for number, c, x in zip(draws, *(np.split(ids, len(draws)) for ids in (centers, contexts)), strict=True):
        targets = draw_targets(x, NEGATIVES, [SEED, number]).numpy() + WORDS
        hyper = [0.2, 1e-7, 0.0] if rule == "adagrad" else [0.2, 0.0]
        sizes = (c >= 0).sum(1)
        deltas, loss = brute_force_groups(rule, [tables, *slots], c[c >= 0], sizes, targets, hyper)
        tables, losses = tables + deltas[0], losses + loss
        slots = [slot + delta for slot, delta in zip(slots, deltas[1:], strict=True)]
    return [*np.split(tables, 2)], losses / (centers >= 0).sum()


@pytest.mark.parametrize(
    ("rule", "fed", "overlap"), [("sgd", False, False), ("sgd", True, False), ("adagrad", False, True)]
)
def test_windows_train_group_after_group(one_worker, rule, fed, overlap):
    check_windows(one_worker, some_groups(600), group_after_group, rule, fed, overlap)


@pytest.mark.parametrize("where", ["one process", "async"])
def test_a_batch_of_groups_elsewhere_is_a_step(request, where):
    strategy = None if where == "one process" else request.getfixturevalue("one_worker")
    made = model(strategy, keras.optimizers.SGD(0.5))
    vectors, (centers, contexts) = made.get_weights()[0], some_groups(50)
    assert made.train_on_batch(centers, contexts) == pytest.approx(4 * np.log(2), rel=1e-5)
    targets = draw_targets(contexts, NEGATIVES, [SEED, 0]).numpy()
    sums = (vectors[centers] * (centers >= 0)[:, :, None]).sum(1)
    expected = np.zeros((WORDS, DIM))  # contexts are 0 at first, so each score is 0 and each slope a half
    np.add.at(expected, targets[:, 0], 0.25 * sums)
    np.add.at(expected, targets[:, 1:], -0.25 * np.repeat(sums[:, None], 3, 1))
    np.testing.assert_allclose(made.get_weights()[1], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(made.get_weights()[0], vectors)


def test_what_stands_for_no_center_moves_no_row(one_worker):
    """An optimizer with momentum moves each row that is looked up, also by a gradient of 0."""
    made = model(one_worker, keras.optimizers.Adam(0.5))
    made.train_on_batch(np.array([[5, 6]]), np.array([1]))
    made.train_on_batch(np.array([[5, 6]]), np.array([1]))
    before = made.get_weights()[0]
    made.train_on_batch(np.array([[-1, 6]]), np.array([5]))
    moved = (made.get_weights()[0] != before).any(axis=1)
    assert np.flatnonzero(moved).tolist() == [6]


@pytest.mark.parametrize("centers", [np.zeros((6, 0), np.int64), np.full((6, 2), -1)])
def test_groups_without_centers_move_nothing(one_worker, centers):
    made = model(one_worker, tfps.optimizers.Geo(keras.optimizers.SGD(0.5), push_every=2))
    start = made.get_weights()[:2]
    assert made.fit(centers, np.arange(6), batch_size=3, verbose=0).history["loss"] == [0.0]
    for now, before in zip(made.get_weights(), start, strict=False):
        np.testing.assert_array_equal(now, before)


def test_groups_of_a_text_are_learned_by_two_workers(strategy):
    made = model(strategy, tfps.optimizers.Geo(keras.optimizers.SGD(0.1), push_every=4))
    text = np.tile(np.arange(WORDS), 60)
    data = tfps.text.neighbour_groups(text, 2, 100, 3 * 36)
    history = made.fit(data, epochs=3, steps_per_epoch=36, verbose=0).history["loss"]
    assert history[2] < history[0] < 4 * np.log(2) * 1.01
    assert made.evaluate(tfps.text.neighbour_groups(text, 2, 100, 36), verbose=0) < history[0]
    assert int(made.optimizer.iterations) == 3 * 36


@pytest.mark.parametrize(("merge", "overlap"), [("cap", False), ("cap", True), ("mean", False), ("sum", False)])
def test_two_workers_learn_and_count_every_batch(strategy, merge, overlap):
    made = model(strategy, tfps.optimizers.Geo(keras.optimizers.SGD(0.1), push_every=4, merge=merge, overlap=overlap))
    centers, contexts = some_pairs(4010)
    history = made.fit(centers, contexts, batch_size=20, epochs=3, verbose=0).history["loss"]
    assert int(made.optimizer.iterations) == 3 * 201
    assert history[2] < history[0] < 4 * np.log(2) * 1.01
    assert made.evaluate(centers, contexts, batch_size=500, verbose=0) < history[0]


@pytest.mark.parametrize("where", ["one process", "async"])
def test_a_batch_elsewhere_is_a_step(request, where):
    strategy = None if where == "one process" else request.getfixturevalue("one_worker")
    made = model(strategy, keras.optimizers.SGD(0.5))
    vectors, (centers, contexts) = made.get_weights()[0], some_pairs(50)
    assert made.train_on_batch(centers, contexts) == pytest.approx(4 * np.log(2), rel=1e-5)
    targets = draw_targets(contexts, NEGATIVES, [SEED, 0]).numpy()
    expected = np.zeros((WORDS, DIM))  # contexts are 0 at first, so each score is 0 and each slope a half
    np.add.at(expected, targets[:, 0], 0.25 * vectors[centers])
    np.add.at(expected, targets[:, 1:], -0.25 * np.repeat(vectors[centers][:, None], 3, 1))
    np.testing.assert_allclose(made.get_weights()[1], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(made.get_weights()[0], vectors)


def test_it_is_saved_and_goes_on_without_a_cluster(strategy, tmp_path):
    made = model(strategy, tfps.optimizers.Geo("sgd", push_every=4))
    pairs = some_pairs(400)
    made.fit(*pairs, batch_size=20, verbose=0)
    made.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(np.arange(5), verbose=0), made.get_weights()[0][:5])
    assert loaded.get_config() == made.get_config() and loaded.optimizer.tfps_mode == made.optimizer.tfps_mode
    assert loaded.fit(*pairs, batch_size=20, verbose=0).history["loss"][0] > 0


@pytest.mark.parametrize(("name", "settings"), [("Adam", {}), ("SGD", {"momentum": 0.5}), ("SGD", {"clipnorm": 1.0})])
def test_optimizers_that_pairs_cannot_be_trained_by(strategy, name, settings):
    made = model(strategy, tfps.optimizers.Geo(getattr(keras.optimizers, name)(**settings)))
    with pytest.raises(UnsupportedError, match="if a SkipGram trains in windows"):
        made.fit(*some_pairs(40), verbose=0)


@pytest.mark.parametrize("rule", ["SGD", "Adagrad"])
@pytest.mark.parametrize("frozen", ["centers", "contexts"])
def test_a_frozen_table_is_refused_where_a_window_is_trained_in_one_go(one_worker, rule, frozen):
    made = model(one_worker, tfps.optimizers.Geo(getattr(keras.optimizers, rule)(0.2), push_every=5))
    getattr(made, frozen).trainable = False
    start = made.get_weights()[:2]
    with pytest.raises(UnsupportedError, match=f"must be trainable.*Received: .*{frozen}"):
        made.fit(*some_pairs(100), batch_size=20, verbose=0)
    for now, before in zip(made.get_weights(), start, strict=False):
        np.testing.assert_array_equal(now, before)


def test_a_frozen_table_stays_where_a_batch_is_a_step(one_worker):
    made = model(one_worker, keras.optimizers.SGD(0.5))
    made.centers.trainable = False
    start = made.get_weights()[:2]
    made.fit(*some_pairs(100), batch_size=20, verbose=0)
    np.testing.assert_array_equal(made.get_weights()[0], start[0])
    assert (made.get_weights()[1] != start[1]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "`dim`"),
        ({"dim": "x"}, "`dim`.*'x'"),
        ({"vocabulary": 0}, "`vocabulary`.*Received: 0"),
        ({"counts": [1, 2]}, r"`counts`.*Received: shape \(2,\)"),
        ({"counts": [-1] * WORDS}, "`counts`.*from -1"),
        ({"negatives": 0}, "`negatives`"),
        ({"negatives": 1.5}, "`negatives`.*1.5"),
        ({"power": "x"}, "`power`.*'x'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        tfps.models.SkipGram(**{"vocabulary": WORDS, "dim": DIM} | arguments)


def test_batches_must_be_pairs():
    made = model(None, "sgd")
    centers, contexts = some_pairs(20)
    with pytest.raises(UnsupportedError, match="Received: no contexts"):
        made.fit(centers, verbose=0)
    with pytest.raises(UnsupportedError, match="Received: sample weights"):
        made.fit(centers, contexts, sample_weight=np.ones(20), verbose=0)
    with pytest.raises(UnsupportedError, match="must be integers. Received: float32 and int64"):
        made.fit(centers + 0.5, contexts, verbose=0)
    with pytest.raises(UnsupportedError, match=r"or one dimension more, for groups. Received: shapes \(.*, 3\) and"):
        made.fit(np.stack([centers] * 3, 1), contexts[:, None], verbose=0)


def test_a_window_touches_no_server_between_pull_and_push(strategy):
    from tests.training.test_traffic import graphs

    made = model(strategy, tfps.optimizers.Geo("sgd", push_every=10, merge="mean"))
    made.fit(*some_pairs(400), batch_size=8, verbose=0)
    closure, *functions = graphs(made)
    assert sum(node.op == "TfpsTrainPairs" for node in closure) == 1
    reading = [nodes for nodes in functions if any(node.op == "IteratorGetNextSync" for node in nodes)]
    assert reading and not [node.name for nodes in reading for node in nodes if "/job:ps/" in node.device]
    places = [node.device for node in closure if node.op == "TfpsGatherRows"]
    assert len(places) == len(set(places)) > 0 and all("/job:ps/" in place for place in places)
    assert sum(node.op == "TfpsApplyRows" for nodes in [closure, *functions] for node in nodes) == len(places)


class Tally(keras.Model):
    """Adds 1 to a row for each id; of two tables, so that an id of one is not taken for the same id of the other."""

    def __init__(self):
        super().__init__()
        self.tables = [keras.layers.Embedding(WORDS, DIM, embeddings_initializer="zeros") for _ in range(2)]
        for table in self.tables:
            table.build()
        self.built = True

    def window_lookups(self, batches):
        return [(table.embeddings, ids) for table, ids in zip(self.tables, batches, strict=True)]

    def train_window(self, batches, rows, steps):
        self.optimizer.iterations.assign_add(tf.cast(steps, self.optimizer.iterations.dtype))
        sums = [
            tf.math.unsorted_segment_sum(tf.ones([tf.size(at), DIM]), at, tf.shape(rows.matrices[0])[0])
            for at in rows.positions
        ]
        return [tf.add_n(sums)], {"steps": tf.cast(steps, tf.float32)}


def table_ids(strategy, model, **mode):
    with strategy.scope():
        made = model()
        made.compile(tfps.optimizers.Geo("sgd", **mode))
    return made


@pytest.mark.parametrize("overlap", [False, True])
def test_every_delta_of_a_whole_window_arrives_once(strategy, overlap):
    made = table_ids(strategy, Tally, push_every=5, merge="sum", overlap=overlap)
    made.optimizer.iterations.assign(1_000_000)  # an old model, which all workers train at once
    pairs = some_pairs(1003)
    logs = made.fit(*pairs, batch_size=8, epochs=2, verbose=0).history
    for ids, rows in zip(pairs, made.get_weights(), strict=False):
        seen = np.bincount(ids, minlength=WORDS)
        np.testing.assert_array_equal(rows, np.repeat(2.0 * seen[:, None], DIM, 1))
    assert int(made.optimizer.iterations) == 1_000_000 + 2 * 126
    assert 1 <= logs["steps"][0] <= 5


@pytest.mark.parametrize("overlap", [False, True])
def test_own_windows_are_no_conflict(strategy, overlap):
    """Of a young model, which one worker trains: nothing is held back."""
    made = table_ids(strategy, Tally, push_every=5, overlap=overlap)
    pairs = np.ones(320, np.int64), np.arange(320) % 8 // 6  # id 1 of both tables, but not as often
    history = made.fit(*pairs, batch_size=8, shuffle=False, verbose=0).history
    assert history["geo_conflicts"] == [0.0]
    for ids, rows in zip(pairs, made.get_weights(), strict=False):
        np.testing.assert_array_equal(rows, np.bincount(ids, minlength=WORDS)[:, None].repeat(DIM, 1))


def test_methods_that_do_not_fit_are_named(strategy):
    class NoLookups(Tally):
        window_lookups = None

    class TooFew(Tally):
        def train_window(self, batches, rows, steps):
            return [], {}

    for wrong, message in [
        (NoLookups, "`window_lookups` beside `train_window`.*Received: NoLookups"),
        (TooFew, "one delta for each of `rows.matrices`, 1.*Received: 0"),
    ]:
        with pytest.raises(UnsupportedError, match=message):
            table_ids(strategy, wrong).fit(*some_pairs(40), verbose=0)
