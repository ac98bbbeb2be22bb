"""Who gets a row and which rows go: the rules as a user sets them, with counts that add up."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.growing.models import counter, counts_of, rows_of
from tfps.errors import ConfigError, UnsupportedError
from tfps.ops import growing_rows


def fit(model, ids, batch_size=2):
    ids = np.asarray(ids).reshape(-1, 2)
    model.fit(ids, np.zeros(len(ids)), batch_size=batch_size, verbose=0, shuffle=False)
    return model.get_layer("counts")


@pytest.mark.parametrize("filter_ids", [None, 4096])
def test_an_id_gets_its_row_at_its_third_update(one_worker, filter_ids):
    model = counter(one_worker, admission=tfps.admission.Count(3, filter_ids))
    # A batch has each id once: 7 comes in five batches, 8 in three, 9 in two.
    layer = fit(model, [[7, 8], [7, 9], [7, 8], [7, 9], [7, 8]], batch_size=1)
    assert {i: -row[0] for i, row in rows_of(layer).items()} == {7: 3.0, 8: 1.0}
    counts = layer.counts()
    assert (counts.rows, counts.admitted, counts.refused, counts.over_budget) == (2, 2, 6, 0)


def test_what_is_not_admitted_reads_the_mean_or_its_first_value(strategy):
    with strategy.scope():
        for reads, expected in (("mean", 2.0), ("first", None)):
            initializer = keras.initializers.RandomUniform(1.0, 3.0, seed=4)
            layer = tfps.layers.DynamicEmbedding(3, initializer, tfps.admission.Count(2, reads=reads))
            rows = layer(tf.constant([5, -5])).numpy()
            first = keras.initializers.RandomUniform(1.0, 3.0, seed=4)((6, 3)).numpy()[5]
            np.testing.assert_array_equal(rows[0], first if expected is None else np.full(3, expected, "float32"))


def test_probability(one_worker):
    model = counter(one_worker, admission=tfps.admission.Probability(0.3))
    layer = fit(model, np.arange(4000), batch_size=100)
    counts = layer.counts()
    # 4,000 draws of 0.3 have a standard deviation of 29.
    assert abs(counts.rows - 1200) < 6 * 29 and counts.refused == 4000 - counts.rows == 4000 - counts.admitted


class Even(tfps.admission.Filter):
    """Admits even ids."""

    def admits(self, ids):
        return ids % 2 == 0


def test_a_rule_of_the_user(strategy):
    model = counter(strategy, admission=Even())
    layer = fit(model, np.arange(200) - 100, batch_size=10)
    assert sorted(rows_of(layer)) == list(range(-100, 100, 2))
    assert model.predict(np.array([[1, 3]]), verbose=0).tolist() == [0.0]
    with pytest.raises(UnsupportedError, match="Filter"):
        tfps.layers.DynamicEmbeddingBag(2, admission=Even())


def test_a_budget_without_eviction_admits_no_more(one_worker):
    layer = fit(counter(one_worker, max_rows=50), np.arange(200))
    counts = layer.counts()
    assert counts.rows <= 50 and counts.rows == counts.admitted and counts.evicted == 0
    assert counts.over_budget == counts.refused == 200 - counts.rows > 100


def test_the_least_recent_go_first(one_worker):
    model = counter(one_worker, max_rows=2000, eviction=tfps.eviction.LeastRecent())
    rng = np.random.default_rng(0)
    hot = np.arange(100)
    for _ in range(20):
        # 100 ids of every round, and 1,000 that never come again.
        layer = fit(model, np.concatenate([hot, rng.integers(10**6, 2**60, 900)]), batch_size=20)
    counts, found = layer.counts(), rows_of(layer)
    assert 1000 < counts.rows <= 2000 and counts.evicted == counts.admitted - counts.rows > 10_000
    assert set(hot.tolist()) <= set(found) and all(found[i][0] == -20 for i in hot.tolist())


def test_the_least_frequent_go_first(one_worker):
    model = counter(one_worker, max_rows=2000, eviction=tfps.eviction.LeastFrequent())
    rng = np.random.default_rng(0)
    for _ in range(5):
        layer = fit(model, np.arange(200), batch_size=20)
    fit(model, rng.integers(10**6, 2**60, 20_000), batch_size=50)
    found = rows_of(layer)
    assert len(found) <= 2000 and all(found[i][0] == -5 for i in range(200))


def test_unseen_rows_go_after_their_steps(one_worker):
    model = counter(one_worker, eviction=tfps.eviction.Unseen(steps=100))
    fit(model, np.arange(500), batch_size=10)
    # 50 updates a shard at most so far; then 2,000 of two ids alone.
    layer = fit(model, np.tile([[1, 2]], (2000, 1)), batch_size=1)
    layer.evict()
    assert {1, 2} <= set(rows_of(layer)) and layer.counts().rows < 20
    counts = layer.counts()
    assert counts.rows == counts.admitted - counts.evicted


def test_unseen_rows_go_after_their_seconds(one_worker):
    model = counter(one_worker, eviction=tfps.eviction.Unseen(seconds=1.0))
    layer = fit(model, np.arange(100), batch_size=10)
    assert layer.counts().rows == 100
    time.sleep(2.5)
    fit(model, [[1, 2]])
    layer.evict()
    assert sorted(rows_of(layer)) == [1, 2]


def test_pinned_rows_stay(one_worker):
    model = counter(one_worker, max_rows=300, eviction=tfps.eviction.LeastRecent())
    layer = fit(model, [[1, 2]])
    layer.pin([1])
    fit(model, np.random.default_rng(0).integers(10**6, 2**60, 10_000), batch_size=20)
    found = rows_of(layer)
    assert 1 in found and 2 not in found and len(found) <= 300
    layer.pin([1], pinned=False)
    fit(model, np.random.default_rng(1).integers(10**6, 2**60, 10_000), batch_size=20)
    assert 1 not in rows_of(layer)


def test_scores_of_shows_and_clicks(one_worker):
    rule = tfps.eviction.Score(threshold=0.5, every_steps=10, decay=0.5)
    model = counter(one_worker, eviction=rule)
    layer = fit(model, [[1, 2], [3, 4]], batch_size=1)
    layer.add_scores([1], [1000.0])
    # Each score halves every ten updates of its shard; a thousand lasts for about ten halvings.
    fit(model, np.tile([[5, 6], [7, 8]], (40, 1)), batch_size=1)
    layer.evict()
    found = set(rows_of(layer))
    assert 1 in found and {5, 6, 7, 8} <= found and not {2, 3, 4} & found
    with pytest.raises(ConfigError, match="keeps no scores"):
        counter(one_worker).get_layer("counts").add_scores([1], [1.0])


def test_small_rows_go(one_worker):
    model = counter(one_worker, eviction=tfps.eviction.SmallNorm(2.5, after_steps=20))
    # Ids 0 to 9 come three times, all others once.
    layer = fit(model, np.concatenate([np.tile(np.arange(10), 3), np.arange(10, 200)]), batch_size=5)
    fit(model, np.tile(np.arange(10).reshape(5, 2), (40, 1)), batch_size=1)
    layer.evict()
    assert set(rows_of(layer)) == set(range(10))


def test_erased_rows_begin_anew(one_worker):
    model = counter(one_worker)
    layer = fit(model, [[1, 2], [1, 2]])
    assert layer.erase([1, 77]) == 1
    fit(model, [[1, 2]])
    assert {i: -row[0] for i, row in rows_of(layer).items()} == {1: 1.0, 2: 3.0}


def test_memory_stays_within_its_budget(strategy):
    budget = 6 << 20
    model = counter(strategy, max_bytes=budget, eviction=tfps.eviction.LeastRecent())
    rng = np.random.default_rng(0)
    for _ in range(3):
        layer = fit(model, rng.integers(-(2**63), 2**63 - 1, 200_000), batch_size=2000)
        assert 0 < layer.counts().bytes <= budget
    assert layer.counts().evicted > 100_000


BAD = {
    "n": (lambda: tfps.admission.Count(0), "`n` must be an integer of at least 1"),
    "filter": (lambda: tfps.admission.Count(16, 10_000), "at most 15"),
    "p": (lambda: tfps.admission.Probability(0), "`p` must be"),
    "reads": (lambda: tfps.admission.Count(2, reads="zero"), "`reads` must be one of"),
    "unseen": (lambda: tfps.eviction.Unseen(), "`steps` or `seconds`"),
    "both": (lambda: tfps.eviction.Unseen(1, 1.0), "`steps` or `seconds`"),
    "l2": (lambda: tfps.eviction.SmallNorm(-1), "`l2` must be"),
    "decay": (lambda: tfps.eviction.Score(1.0, 10, decay=1.5), "`decay` must be"),
    "negative budget": (lambda: tfps.layers.DynamicEmbedding(4, max_rows=-1), "`max_rows` must be"),
    "no budget": (
        lambda: tfps.layers.DynamicEmbedding(4, eviction=tfps.eviction.LeastRecent()),
        "with `max_rows` or `max_bytes`",
    ),
    "rule": (lambda: tfps.layers.DynamicEmbedding(4, eviction="lru"), "`eviction` must be a rule of tfps.eviction"),
    "admission": (lambda: tfps.layers.DynamicEmbedding(4, admission=3), "`admission` must be a rule"),
    "dim": (lambda: tfps.layers.DynamicEmbedding(0), "`output_dim` must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rules_are_named(name):
    make, message = BAD[name]
    with pytest.raises(ConfigError, match=message):
        make()


def test_an_initializer_that_needs_the_whole_matrix_is_named(strategy):
    with strategy.scope(), pytest.raises(ConfigError, match=r"must draw the row of any id(.|\n)*RandomUniform"):
        tfps.layers.DynamicEmbedding(4, "glorot_uniform")(tf.constant([1]))


def test_counts_of_a_dictionary(strategy):
    rng = np.random.default_rng(8)
    ids = rng.zipf(1.1, 8000)
    layer = fit(counter(strategy), ids, batch_size=50)
    counts = layer.counts()
    assert counts.rows == counts.admitted == len(counts_of(ids)) and counts.refused == 0
    assert 0 < counts.load <= 1 and 1 <= counts.probes < 2


def test_the_choice_of_a_strategy_knows_that_only_servers_have_such_tables():
    def build():
        inputs = keras.Input((2,), dtype="int64")
        rows = tfps.layers.DynamicEmbedding(4, expected_rows=1000, name="items")(inputs)
        model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(rows)))
        model.compile("adagrad", "mse")
        return model

    explained = tfps.explain_strategy(build, batch_size=32)
    assert "ParameterServer" in explained.choice
    assert any("Table 'items/embeddings' grows" in reason for reason in explained.reasons)


def test_lookups_say_whether_their_rows_will_be_updated(strategy, monkeypatch):
    """Tables that evict leave rows alone that a step has looked up and will update."""
    said, stock = [], growing_rows.gather
    monkeypatch.setattr(growing_rows, "gather", lambda *args: said.append(args[3]) or stock(*args))
    model, ids = counter(strategy), np.arange(64).reshape(-1, 2)
    model.fit(ids, np.zeros(32), batch_size=8, verbose=0)
    assert said and any(said)
    said.clear()
    model.evaluate(ids, np.zeros(32), batch_size=8, verbose=0)
    model.predict(ids, batch_size=8, verbose=0)
    model(ids)
    assert said and not any(said)
