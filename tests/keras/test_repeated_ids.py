"""`repeated_ids="each"`: the optimizer measures each gradient of an id that repeats, as Keras does in one process."""

import contextlib
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.embedding.routed_gradients import RoutedGradients
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError

ROWS, BATCH, DIM = 12, 8, 4
RANDOM = np.random.default_rng(0)
# Each batch has each row once and twelve places more, so that rows which rest do not differ from Keras's.
IDS = np.stack([np.concatenate([RANDOM.permutation(ROWS), RANDOM.integers(0, 4, ROWS)]) for _ in range(6)])
IDS = IDS.reshape(-1, 3)
LABELS = (1 + IDS.sum(1, keepdims=True) % 5).astype("float32")


@pytest.fixture
def each(strategy, monkeypatch):
    """Tables that a test makes keep repeats."""
    monkeypatch.setattr(strategy.factory, "keep_repeats", True)
    return strategy


@pytest.fixture
def each_alone(each, one_worker):
    return one_worker


def flat(ids, embedding):
    return keras.layers.Flatten()(embedding(ids))


def twice(ids, embedding):
    """Two lookups of one table, of which the tape adds up the gradients."""
    return keras.layers.Concatenate()([flat(ids, embedding), embedding(ids[:, 0])])


def pooled(ids, embedding):
    return tf.reduce_mean(embedding(ids), 1)


def scored(ids, embedding):
    """A table that is also read whole, so that a part of its gradient is dense."""
    return pooled(ids, embedding) @ keras.ops.transpose(embedding.embeddings)


def looped(ids, embedding):
    """Lookups in a loop, whose gradient is dense in one process."""
    return keras.layers.Flatten()(tf.map_fn(embedding, ids, fn_output_signature=tf.float32))


def combined(ids, embedding):
    """TensorFlow's function looks up unique ids, so an id has one gradient for each call."""
    sparse = tf.sparse.from_dense(ids)  # without the places of id 0
    first = tf.nn.embedding_lookup_sparse(embedding.embeddings.value, sparse, None)
    return keras.layers.Concatenate()([first, embedding(ids[:, 0])])


def clipped(ids, embedding):
    return keras.layers.Flatten()(tf.nn.embedding_lookup(embedding.embeddings, ids, max_norm=0.05))


def sliced(ids, embedding):
    return flat(ids, embedding) * tf.reduce_sum(embedding.embeddings[1:3])


def multiplied(ids, embedding):
    ones = tf.one_hot(ids[:, 0], ROWS)
    return pooled(ids, embedding) + tf.sparse.sparse_dense_matmul(tf.sparse.from_dense(ones), embedding.embeddings)


def branched(ids, embedding):
    return keras.layers.Flatten()(tf.cond(tf.reduce_sum(ids) > 0, lambda: embedding(ids), lambda: embedding(ids[::-1])))


OTHERS = (combined, clipped, sliced, multiplied)


class Model(keras.Model):
    """A model that calls one of the functions above."""

    def __init__(self, use, **embedding):
        super().__init__()
        self.use, self.table, self.dense = use, keras.layers.Embedding(ROWS, DIM, **embedding), keras.layers.Dense(1)
        self.table.build((None,))

    def call(self, ids):
        return self.dense(self.use(ids, self.table))


def trained(scope, optimizer, use=flat, batch=BATCH, **embedding):
    """Weights, slots and losses."""
    keras.utils.set_random_seed(7)
    with scope:
        model = Model(use, **embedding)
        model.compile(optimizer(), "mse")
        model(IDS[:1])
    history = model.fit(IDS, LABELS, batch_size=batch, epochs=2, shuffle=False, verbose=0)
    assert isinstance(model.table.embeddings._value, Table) or isinstance(scope, contextlib.nullcontext)
    return [*model.get_weights(), *(np.asarray(v) for v in model.optimizer.variables), history.history["loss"]]


def assert_as_in_one_process(strategy, optimizer, use=flat, batch=BATCH, **embedding):
    ours = trained(strategy.scope(), optimizer, use, **embedding)
    theirs = trained(contextlib.nullcontext(), optimizer, use, batch, **embedding)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=3e-4, atol=3e-6)


def adagrad(**settings):
    return keras.optimizers.Adagrad(0.1, **settings)


OPTIMIZERS = {
    "adagrad": adagrad,
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamax": lambda: keras.optimizers.Adamax(0.01),
    "amsgrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "weight decay": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "adadelta": lambda: keras.optimizers.Adadelta(1.0),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01),
    "rmsprop with momentum": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5),
    "ftrl": lambda: keras.optimizers.Ftrl(0.1),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "rowwise adagrad": lambda: tfps.optimizers.RowwiseAdagrad(0.1),
    "clipped by norm": lambda: adagrad(clipnorm=0.1),
    "clipped by global norm": lambda: adagrad(global_clipnorm=0.1),
    "clipped by value": lambda: adagrad(clipvalue=0.01),
    "geo": lambda: tfps.optimizers.Geo(keras.optimizers.Adam(0.01), push_every=4),
    "sync": lambda: tfps.optimizers.Sync(keras.optimizers.Adam(0.01)),
    "sync, adamax": lambda: tfps.optimizers.Sync(keras.optimizers.Adamax(0.01)),
    "sync, clipped by norm": lambda: tfps.optimizers.Sync(adagrad(clipnorm=0.1)),
    "sync, clipped by global norm": lambda: tfps.optimizers.Sync(adagrad(global_clipnorm=0.1)),
    "sync, sgd, clipped": lambda: tfps.optimizers.Sync(keras.optimizers.SGD(0.1, clipnorm=0.1)),
}
OFTEN = ("adam", "adamax", "clipped by norm", "geo", "sync, clipped by norm")


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS]
)
def test_one_worker_gives_what_one_process_gives(each_alone, name):
    assert_as_in_one_process(each_alone, OPTIMIZERS[name])


@pytest.mark.parametrize(
    "use", [twice, scored, *(pytest.param(use, marks=pytest.mark.slow) for use in (looped, branched, *OTHERS))]
)
def test_whatever_the_lookups(each_alone, use):
    assert_as_in_one_process(each_alone, adagrad, use)


def test_a_regularizer_makes_the_gradient_dense_as_in_one_process(each_alone):
    # So is the norm that is clipped.
    clipped = functools.partial(adagrad, clipnorm=0.1)
    assert_as_in_one_process(each_alone, clipped, embeddings_regularizer=keras.regularizers.L2(0.1))


def test_bags_measure_each_of_their_ids(each_alone):
    def weights(table, pool):
        keras.utils.set_random_seed(7)
        with each_alone.scope():
            model = keras.Sequential([keras.Input((3,), dtype="int64"), table(ROWS, DIM), pool, keras.layers.Dense(1)])
            model.compile(adagrad(), "mse")
        model.fit(IDS, LABELS, batch_size=BATCH, shuffle=False, verbose=0)
        return model.get_weights()

    bags, identity = functools.partial(tfps.layers.EmbeddingBag, combiner="mean"), keras.layers.Identity()
    expected = weights(keras.layers.Embedding, keras.layers.GlobalAveragePooling1D())
    for ours, theirs in zip(weights(bags, identity), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=3e-4, atol=3e-6)


@pytest.mark.parametrize("optimizer", ["sync", pytest.param("sync, adamax", marks=pytest.mark.slow)])
def test_synchronous_workers_give_what_one_process_gives_with_the_joined_batch(each, optimizer):
    """Measures add up over the workers: an id may repeat only in the joined batch."""
    # Worker n trains every second batch, so a joined batch has the examples of two that follow each other.
    assert_as_in_one_process(each, OPTIMIZERS[optimizer], batch=2 * BATCH)


def test_the_loss_scale_of_mixed_precision_is_taken_from_measures_too(each_alone):
    def train(make):
        keras.utils.set_random_seed(7)
        with each_alone.scope():
            model = Model(flat)
            model.compile(tfps.optimizers.Sync(adagrad(clipnorm=0.05)), "mse")
            if make is not None:
                model.optimizer = make(model.optimizer)
        model.fit(IDS, LABELS, batch_size=BATCH, shuffle=False, verbose=0)
        return model.get_weights()

    def scaled(optimizer):
        return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1024.0)

    for ours, theirs in zip(train(scaled), train(None), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def pushed(strategy, monkeypatch, ids, repeats):
    """The sizes of the messages of a push of some ids."""
    monkeypatch.setattr(strategy.factory, "keep_repeats", repeats)
    with strategy.scope():
        model = Model(flat)
        model.compile(adagrad(), "mse")
        model(ids[:1])
    sizes = []
    pack = RoutedGradients.pack
    monkeypatch.setattr(RoutedGradients, "pack", lambda *args: sizes.append(tf.size(made := pack(*args))) or made)
    model.run_eagerly = True
    model.fit(ids, np.ones(len(ids)), batch_size=len(ids), verbose=0)
    monkeypatch.setattr(RoutedGradients, "pack", pack)
    return [int(size) for size in sizes]


def test_only_ids_that_repeat_send_a_second_row(strategy, monkeypatch):
    alone = np.arange(ROWS).reshape(-1, 3)
    assert pushed(strategy, monkeypatch, alone, True) == pushed(strategy, monkeypatch, alone, False)
    thrice = np.concatenate([alone, [[1, 5, 5], [1, 1, 2]]])  # of 1, 2 and 5 the measures go too
    more = sum(pushed(strategy, monkeypatch, thrice, True)) - sum(pushed(strategy, monkeypatch, thrice, False))
    assert more == 3 * DIM


def test_what_is_not_defined_is_refused(each):
    centered = keras.optimizers.RMSprop(0.01, centered=True)
    with pytest.raises(UnsupportedError, match=r"`repeated_ids` .* must be \"sum\" for RMSprop\(centered=\)"):
        trained(each.scope(), lambda: centered)
    clipped = tfps.optimizers.Sync(adagrad(clipvalue=0.1))
    with pytest.raises(UnsupportedError, match=r"`clipvalue` of .*Adagrad must be None in mode Sync.*Received: 0.1"):
        trained(each.scope(), lambda: clipped)
