"""Programs of the kind that people start from: columns, recommenders, towers. One worker does what one process does."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

EXAMPLES, BATCH = 128, 32
DRAW = np.random.default_rng(5)
COLUMNS = {
    "age": DRAW.integers(18, 80, EXAMPLES),
    "income": DRAW.lognormal(10, 1, EXAMPLES).astype("float32"),
    "city": DRAW.choice(["ulm", "bonn", "kiel", "jena"], EXAMPLES),
    "code": DRAW.choice([3, 17, 42], EXAMPLES),
}
TARGET = (COLUMNS["age"] > 50).astype("float32")
USERS, ITEMS = 30, 50
USER, ITEM = DRAW.integers(0, USERS, EXAMPLES), DRAW.integers(0, ITEMS, EXAMPLES)
RATING = ((USER * 7 + ITEM) % 5 + 1).astype("float32")


def assert_alike(strategy, train, rtol=1e-3):
    """What `train(scope)` returns is alike in one process and in the scope; `scope` makes the context of either."""
    found = []
    for scope in (strategy.scope, contextlib.nullcontext):
        keras.utils.set_random_seed(11)
        found.append(train(scope))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-5)


def batches(*parts):
    return tf.data.Dataset.from_tensor_slices(parts).batch(BATCH)


def results(model, data, **settings):
    """Trains, evaluates and predicts; returns all that a user sees."""
    history = model.fit(data, epochs=2, verbose=0, **settings).history
    assert history["loss"][1] < history["loss"][0]
    return [*map(np.array, history.values()), model.predict(data, verbose=0)]


@pytest.mark.parametrize("inside", [False, True], ids=["in the input", "in the model"])
def test_columns_by_a_feature_space(one_worker, inside):
    """`FeatureSpace` learns from the data; its layers run in `Dataset.map`, or as the first part of the model."""

    def train(scope):
        with scope():
            space = keras.utils.FeatureSpace(
                {
                    "age": keras.utils.FeatureSpace.float_discretized(num_bins=5),
                    "income": keras.utils.FeatureSpace.float_normalized(),
                    "city": keras.utils.FeatureSpace.string_categorical(num_oov_indices=1),
                    "code": keras.utils.FeatureSpace.integer_categorical(num_oov_indices=0),
                },
                crosses=[keras.utils.FeatureSpace.cross(("city", "code"), crossing_dim=16)],
                output_mode="concat",
            )
        space.adapt(tf.data.Dataset.from_tensor_slices(COLUMNS).batch(BATCH))
        data = batches(COLUMNS, TARGET)
        with scope():
            encoded = space.get_encoded_features()
            hidden = keras.layers.Dropout(0.1, seed=2)(keras.layers.Dense(16, activation="relu")(encoded))
            output = keras.layers.Dense(1, activation="sigmoid")(hidden)
            model = keras.Model(space.get_inputs() if inside else encoded, output)
            model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
        mapped = data if inside else data.map(lambda x, y: (space(x), y), num_parallel_calls=tf.data.AUTOTUNE)
        return results(model, mapped.prefetch(tf.data.AUTOTUNE))

    assert_alike(one_worker, train)


def test_columns_wide_deep_and_cross(one_worker):
    """An input for each column, lookup and normalization layers, embeddings beside one-hot columns, a cross layer."""

    def train(scope):
        with scope():
            inputs = {
                "income": keras.Input((1,), name="income"),
                "city": keras.Input((1,), name="city", dtype="string"),
                "code": keras.Input((1,), name="code", dtype="int64"),
            }
            scaled = keras.layers.Normalization()
            scaled.adapt(COLUMNS["income"][:, None])
            city = keras.layers.StringLookup(vocabulary=sorted(set(COLUMNS["city"])))
            code = keras.layers.IntegerLookup(vocabulary=[3, 17, 42], output_mode="one_hot")
            row = keras.layers.Embedding(city.vocabulary_size(), 4)(city(inputs["city"]))
            parts = [scaled(inputs["income"]), keras.layers.Reshape((4,))(row), code(inputs["code"])]
            wide = keras.layers.Concatenate()(parts)
            crossed = wide * keras.layers.Dense(wide.shape[-1])(wide) + wide
            deep = keras.layers.Dense(16, activation="relu")(keras.layers.BatchNormalization()(wide))
            both = keras.layers.Concatenate()([crossed, deep])
            model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(both))
            model.compile(
                keras.optimizers.SGD(0.1),
                keras.losses.SparseCategoricalCrossentropy(),
                metrics=[keras.metrics.SparseCategoricalAccuracy()],
            )
        columns = {name: COLUMNS[name][:, None] for name in inputs}
        return results(model, batches(columns, TARGET), class_weight={0: 1.0, 1: 2.0})

    assert_alike(one_worker, train)


class Ratings(keras.Model):
    """Users and items, each with a vector and a bias: collaborative filtering."""

    def __init__(self, size):
        super().__init__()
        vectors = {"embeddings_initializer": "he_normal", "embeddings_regularizer": keras.regularizers.l2(1e-6)}
        self.user, self.item = (keras.layers.Embedding(rows, size, **vectors) for rows in (USERS, ITEMS))
        self.user_bias, self.item_bias = keras.layers.Embedding(USERS, 1), keras.layers.Embedding(ITEMS, 1)

    def call(self, pairs):
        match = keras.ops.tensordot(self.user(pairs[:, 0]), self.item(pairs[:, 1]), 2)
        return keras.ops.sigmoid(match + self.user_bias(pairs[:, 0]) + self.item_bias(pairs[:, 1]))


def test_collaborative_filtering(one_worker):
    def train(scope):
        with scope():
            model = Ratings(8)
            model.compile(keras.optimizers.SGD(0.05), keras.losses.BinaryCrossentropy())
        pairs, scores = np.stack([USER, ITEM], 1), (RATING - 1) / 4
        held_out = pairs[:40], scores[:40]
        history = model.fit(
            pairs, scores, batch_size=BATCH, epochs=2, shuffle=False, verbose=0, validation_data=held_out
        ).history
        unseen = np.stack([np.full(ITEMS, 3), np.arange(ITEMS)], 1)
        return [*map(np.array, history.values()), model.predict(unseen, verbose=0).ravel(), *model.get_weights()]

    assert_alike(one_worker, train)


class Interactions(keras.layers.Layer):
    """The dot products of all pairs of features, as in DLRM."""

    def call(self, features):
        stacked = keras.ops.stack(features, axis=1)
        products = keras.ops.matmul(stacked, keras.ops.transpose(stacked, (0, 2, 1)))
        return keras.ops.reshape(products, (-1, len(features) ** 2))


def test_ranking_with_nested_inputs_and_a_sequence(one_worker):
    """Nested inputs, a masked history, attention over it, dot interactions, several outputs and losses."""
    history = DRAW.integers(1, ITEMS, (EXAMPLES, 6)) * (np.arange(6) < DRAW.integers(1, 7, (EXAMPLES, 1)))

    def train(scope):
        with scope():
            inputs = {
                "user": keras.Input((), dtype="int32", name="user"),
                "context": {"history": keras.Input((6,), dtype="int32", name="history")},
                "item": keras.Input((), dtype="int32", name="item"),
            }
            items = keras.layers.Embedding(ITEMS, 8, mask_zero=True)
            user = keras.layers.Embedding(USERS, 8)(inputs["user"])
            item = items(inputs["item"])
            past = items(inputs["context"]["history"])
            seen = keras.layers.Attention()([keras.layers.Reshape((1, 8))(item), past])
            features = [user, item, keras.layers.Reshape((8,))(seen)]
            joined = keras.layers.Concatenate()([Interactions()(features), *features])
            hidden = keras.layers.LayerNormalization()(keras.layers.Dense(16, activation="gelu")(joined))
            outputs = {
                "rating": keras.layers.Dense(1, name="rating")(hidden),
                "click": keras.layers.Dense(1, activation="sigmoid", name="click")(hidden),
            }
            model = keras.Model(inputs, outputs)
            model.compile(
                keras.optimizers.SGD(0.02),
                loss={"rating": "mse", "click": "binary_crossentropy"},
                loss_weights={"rating": 0.5, "click": 1.0},
                metrics={"rating": ["mae"], "click": ["auc"]},
            )
        given = {"user": USER, "context": {"history": history}, "item": ITEM}
        data = batches(given, {"rating": RATING, "click": (RATING > 3).astype("float32")})
        seen = model.fit(data, epochs=2, verbose=0).history
        return [*map(np.array, seen.values()), *model.predict(data, verbose=0).values()]

    if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 13):
        with pytest.raises(tf.errors.InvalidArgumentError):
            train(contextlib.nullcontext)
        pytest.skip("this Keras itself fails: it mixes up nested inputs")
    assert_alike(one_worker, train)


class TwoTowers(keras.Model):
    """Retrieval with the other items of the batch as negatives, and steps of its own, as recommender libraries have."""

    def __init__(self, users, items):
        super().__init__()
        self.users, self.items = users, items
        self.ranked = keras.metrics.SparseTopKCategoricalAccuracy(5, name="top_5")
        self.total = keras.metrics.Mean(name="mean_total")

    def call(self, features):
        return self.users(features["user"])

    def batch_loss(self, features, training):
        scores = keras.ops.matmul(self(features, training=training), keras.ops.transpose(self.items(features["item"])))
        labels = keras.ops.arange(keras.ops.shape(scores)[0])
        self.ranked.update_state(labels, scores)
        return keras.ops.sum(keras.losses.sparse_categorical_crossentropy(labels, scores, from_logits=True))

    def train_step(self, features):
        with tf.GradientTape() as tape:
            loss = self.batch_loss(features, training=True)
            regularization = sum(self.losses)
            total = loss + regularization
        gradients = tape.gradient(total, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self._logs(loss, regularization, total)

    def test_step(self, features):
        loss = self.batch_loss(features, training=False)
        regularization = sum(self.losses)
        return self._logs(loss, regularization, loss + regularization)

    def _logs(self, loss, regularization, total):
        self.total.update_state(total)
        results = {metric.name: metric.result() for metric in self.metrics if metric.name != "loss"}
        return results | {"loss": loss, "regularization_loss": regularization, "total_loss": total}


def tower(names, scope):
    with scope():
        lookup = keras.layers.StringLookup(mask_token=None)
        lookup.adapt(tf.data.Dataset.from_tensor_slices(names).batch(100))
        table = keras.layers.Embedding(lookup.vocabulary_size(), 8)
        return keras.Sequential([lookup, table, keras.layers.Dense(4, kernel_regularizer="l2")])


def test_retrieval_with_two_towers(one_worker):
    users, items = np.array([f"user {i}" for i in USER]), np.array([f"item {i}" for i in ITEM])

    def train(scope):
        with scope():
            model = TwoTowers(tower(users, scope), tower(items, scope))
            model.compile(keras.optimizers.SGD(0.01))
        data = tf.data.Dataset.from_tensor_slices({"user": users, "item": items}).batch(BATCH).cache()
        history = model.fit(data, epochs=2, verbose=0).history
        found = model.evaluate(data, verbose=0, return_dict=True)
        assert set(history) == set(found) == {"top_5", "mean_total", "loss", "regularization_loss", "total_loss"}
        # The index: all items through their tower, in eager code, then the best of them for some users.
        known = sorted(set(items))
        index = np.concatenate([model.items(tf.constant(known[i : i + 16])) for i in range(0, len(known), 16)])
        scores = model.users(tf.constant(users[:4])) @ index.T
        values, best = tf.math.top_k(scores, 3)
        metrics = [history["top_5"], history["mean_total"], [found["top_5"], found["mean_total"]]]
        return [*map(np.array, metrics), values, best, *model.users.get_weights(), *model.items.get_weights()]

    assert_alike(one_worker, train)


class Retrieval(keras.Model):
    """Users and items by embeddings alone. Only `compute_loss` calls the tower of the items."""

    def __init__(self):
        super().__init__()
        self.users, self.items = keras.layers.Embedding(USERS, 8), keras.layers.Embedding(ITEMS, 8)
        self.scale = keras.layers.Dense(1)

    def call(self, features):
        return self.users(features["user"])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        match = keras.ops.sum(y_pred * self.items(x["item"]), axis=1, keepdims=True)
        return keras.ops.mean(keras.ops.square(self.scale(match) - keras.ops.reshape(y, (-1, 1))))


def test_a_tower_that_only_the_loss_calls(one_worker):
    def train(scope):
        with scope():
            model = Retrieval()
            model.compile(keras.optimizers.SGD(0.1))
        data = batches({"user": USER, "item": ITEM}, RATING)
        assert model.evaluate(data, verbose=0) > 1
        return [np.array(model.fit(data, epochs=2, verbose=0).history["loss"]), *model.get_weights()]

    assert_alike(one_worker, train)


class Gan(keras.Model):
    """Two networks with an optimizer each, and no `call`."""

    def __init__(self):
        super().__init__()
        self.generator = keras.Sequential([keras.layers.Dense(8, activation="relu"), keras.layers.Dense(4)])
        self.discriminator = keras.Sequential([keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)])
        self.noise = keras.random.SeedGenerator(3)
        self.losses_of = [keras.metrics.Mean(name="d_loss"), keras.metrics.Mean(name="g_loss")]

    def compile(self, first, second):
        super().compile()
        self.first, self.second = first, second
        self.loss_of = keras.losses.BinaryCrossentropy(from_logits=True)

    @property
    def metrics(self):
        return self.losses_of

    def _apply(self, optimizer, network, loss):
        with tf.GradientTape() as tape:
            value = loss()
        weights = network.trainable_weights
        optimizer.apply_gradients(zip(tape.gradient(value, weights), weights, strict=True))
        return value

    def train_step(self, real):
        size = keras.ops.shape(real)[0]
        fake = self.generator(keras.random.normal((size, 2), seed=self.noise))
        both = keras.ops.concatenate([fake, real])
        labels = keras.ops.concatenate([keras.ops.ones((size, 1)), keras.ops.zeros((size, 1))])
        found = self._apply(self.first, self.discriminator, lambda: self.loss_of(labels, self.discriminator(both)))
        noise = keras.random.normal((size, 2), seed=self.noise)
        wanted = keras.ops.zeros((size, 1))
        fooled = self._apply(
            self.second, self.generator, lambda: self.loss_of(wanted, self.discriminator(self.generator(noise)))
        )
        for metric, value in zip(self.losses_of, (found, fooled), strict=True):
            metric.update_state(value)
        return {metric.name: metric.result() for metric in self.losses_of}


def test_a_gan_without_a_call(one_worker):
    real = np.random.default_rng(2).normal(2, 0.5, (EXAMPLES, 4)).astype("float32")

    def train(scope):
        with scope():
            model = Gan()
            model.compile(keras.optimizers.Adam(0.01), keras.optimizers.Nadam(0.01))
        history = model.fit(real, batch_size=BATCH, epochs=2, shuffle=False, verbose=0).history
        assert int(model.first.iterations) == int(model.second.iterations) == 8
        return [history["d_loss"], history["g_loss"], *model.get_weights()]

    assert_alike(one_worker, train)
