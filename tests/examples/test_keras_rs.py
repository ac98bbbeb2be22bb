"""Models by keras-rs as its tutorials write them, unchanged in a scope: one worker does what one process does."""

import contextlib
import importlib.util
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

rs = pytest.importorskip("keras_rs")

EXAMPLES, BATCH, USERS, ITEMS, LIST = 128, 32, 30, 50, 6
DRAW = np.random.default_rng(5)
USER, ITEM = DRAW.integers(0, USERS, EXAMPLES), DRAW.integers(0, ITEMS, EXAMPLES)
RATING = ((USER * 7 + ITEM) % 5 + 1).astype("float32")


def assert_alike(strategy, train):
    """Compares what `train(scope)` returns in the scope and in one process; `scope` makes the context of either."""
    found = []
    for scope in (strategy.scope, contextlib.nullcontext):
        keras.utils.set_random_seed(11)
        found.append(train(scope))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def batches(*parts):
    return tf.data.Dataset.from_tensor_slices(parts).batch(BATCH)


class Retrieval(keras.Model):
    """Two towers. They are trained by in-batch negatives, and `call` gives the best items once they are known."""

    def __init__(self):
        super().__init__()
        self.users, self.items = keras.layers.Embedding(USERS, 8), keras.layers.Embedding(ITEMS, 8)
        self.best = rs.layers.BruteForceRetrieval(k=3, return_scores=False)
        self.negatives = rs.layers.HardNegativeMining(num_hard_negatives=8)
        self.correction = rs.layers.SamplingProbabilityCorrection()
        self.no_hits = rs.layers.RemoveAccidentalHits()
        self.loss_of = keras.losses.CategoricalCrossentropy(from_logits=True)

    def call(self, inputs, training=False):
        vectors = {"user": self.users(inputs["user"]), "item": self.items(inputs["item"])}
        if not training:
            vectors["best"] = self.best(vectors["user"])
        return vectors

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        scores = keras.ops.matmul(y_pred["user"], keras.ops.transpose(y_pred["item"]))
        labels = keras.ops.eye(keras.ops.shape(scores)[0])
        scores = self.correction(scores, x["frequency"])
        scores = self.no_hits(scores, labels, x["item"])
        scores, labels = self.negatives(scores, labels)
        return self.loss_of(labels, scores)


def test_retrieval(one_worker):
    frequency = (np.bincount(ITEM, minlength=ITEMS) / EXAMPLES).astype("float32")[ITEM]
    data = tf.data.Dataset.from_tensor_slices({"user": USER, "item": ITEM, "frequency": frequency}).batch(BATCH)

    def train(scope):
        with scope():
            model = Retrieval()
            model.best.update_candidates(np.zeros((ITEMS, 8), "float32"))
            model.compile(keras.optimizers.SGD(0.5))
        history = model.fit(data, epochs=2, verbose=0).history["loss"]
        assert history[1] < history[0]
        model.best.update_candidates(model.items(np.arange(ITEMS)))
        users, items = (layer.get_weights()[0] for layer in (model.users, model.items))
        found = model.predict(data, verbose=0)["best"]
        # Ties are broken alike by numpy and by top_k in these few rows.
        np.testing.assert_array_equal(found, np.argsort(-users[USER] @ items.T, axis=1, kind="stable")[:, :3])
        return history, users, items

    assert_alike(one_worker, train)


OTHERS = [pytest.param(loss, marks=pytest.mark.slow) for loss in ("PairwiseLogisticLoss", "PairwiseMeanSquaredError")]


@pytest.mark.parametrize("loss", ["PairwiseHingeLoss", "ListMLELoss", *OTHERS])
def test_ranking_lists(one_worker, loss):
    """Lists of items of a user, a loss over pairs or lists, a layer that crosses features, and metrics of ranking."""
    items = DRAW.integers(0, ITEMS, (EXAMPLES, LIST))
    inputs = {"user": USER[:, None], "items": items}
    stars = ((USER[:, None] * 7 + items) % 5).astype("float32")

    def train(scope):
        with scope():
            user, listed = (
                keras.Input((1,), dtype="int64", name="user"),
                keras.Input((LIST,), dtype="int64", name="items"),
            )
            of_user = keras.ops.repeat(keras.layers.Embedding(USERS, 8)(user), LIST, axis=1)
            both = keras.layers.Concatenate()([of_user, keras.layers.Embedding(ITEMS, 8)(listed)])
            crossed = rs.layers.FeatureCross(projection_dim=4)(both)
            scores = keras.ops.squeeze(keras.layers.Dense(1)(crossed), -1)
            model = keras.Model({"user": user, "items": listed}, scores)
            metrics = [rs.metrics.NDCG(k=3, name="ndcg"), rs.metrics.MeanReciprocalRank(name="mrr")]
            model.compile(keras.optimizers.SGD(0.1), getattr(rs.losses, loss)(), metrics=metrics)
        history = model.fit(batches(inputs, stars), epochs=2, verbose=0).history
        assert history["loss"][1] < history["loss"][0]
        return [*history.values(), model.predict(inputs, verbose=0)]

    assert_alike(one_worker, train)


def test_bags_and_dot_interaction(one_worker):
    """A DLRM of keras-rs: bags of ids become one vector each, and pairs of vectors a number."""
    bags = {name: DRAW.integers(0, ITEMS, (EXAMPLES, 4)) for name in ("mean", "sum", "sqrtn")}
    weights = DRAW.random((EXAMPLES, 4)).astype("float32")

    def train(scope):
        with scope():
            inputs = {name: keras.Input((4,), dtype="int64", name=name) for name in bags}
            inputs["weights"] = keras.Input((4,), name="weights")
            vectors = [rs.layers.EmbedReduce(ITEMS, 8, combiner=name)(inputs[name], inputs["weights"]) for name in bags]
            products = rs.layers.DotInteraction()(vectors)
            hidden = keras.layers.Dense(8, activation="relu")(keras.layers.Concatenate()([products, *vectors]))
            model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
            model.compile(keras.optimizers.SGD(0.02), "mse")
        data = batches(bags | {"weights": weights}, RATING)
        history = model.fit(data, epochs=2, verbose=0).history["loss"]
        assert history[1] < history[0]
        return history, model.predict(data, verbose=0)

    assert_alike(one_worker, train)


def test_distributed_embedding(one_worker):
    """keras-rs's own layer for large tables: on CPUs it is made of plain lookups, which tfps serves by rows."""

    def train(scope):
        with scope():
            tables = [
                rs.layers.TableConfig(name, rows, 8, initializer="uniform", optimizer="adagrad", combiner="mean")
                for name, rows in (("users", USERS), ("items", ITEMS))
            ]
            features = {
                table.name: rs.layers.FeatureConfig(table.name, table, (BATCH, 1), (BATCH, 8)) for table in tables
            }
            inputs = {name: keras.Input((1,), batch_size=BATCH, dtype="int64", name=name) for name in features}
            found = rs.layers.DistributedEmbedding(features)(inputs)
            model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(list(found.values()))))
            model.compile(keras.optimizers.SGD(0.02), "mse")
        data = batches({"users": USER[:, None], "items": ITEM[:, None]}, RATING)
        history = model.fit(data, epochs=2, verbose=0).history["loss"]
        assert history[1] < history[0]
        return history, model.predict(data, verbose=0)

    assert_alike(one_worker, train)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("tensorflow_recommenders"), reason="needs tensorflow-recommenders")
def test_tasks_of_tensorflow_recommenders(begin):
    program = begin(pathlib.Path(__file__).with_name("recommenders.py"), TF_USE_LEGACY_KERAS="1")
    assert program.wait(300) == 0, program.output()
    assert "losses" in program.output()
