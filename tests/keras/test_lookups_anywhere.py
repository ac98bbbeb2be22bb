"""Lookups by any kind of ids, and at any place of a model: what one process does with them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.keras.test_whole_tables import CLASSES, DIM, IDS, MODES, ROWS, assert_alike, logits


class Parts(keras.Model):
    """A table and a layer on top, both built at the start: what a loop builds would be its own."""

    def __init__(self):
        super().__init__()
        self.table, self.top = keras.layers.Embedding(ROWS, DIM), keras.layers.Dense(1)

    def build(self, shape):
        self.table.build()
        self.top.build((None, DIM))

    def call(self, ids):
        return self.top(self.rows(ids))


def sgd():
    return keras.optimizers.SGD(0.1)


class KindsOfIds(Parts):
    """Ragged, sparse and indexed."""

    def rows(self, ids):
        ragged = self.table(tf.RaggedTensor.from_tensor(ids, lengths=1 + ids[:, 0] % 3))
        sparse = tf.sparse.from_dense(ids)
        sparse = self.table(tf.SparseTensor(sparse.indices, sparse.values, [tf.shape(ids, tf.int64)[0], 3]))
        table = self.table.embeddings
        indexed = table[0] + tf.reduce_mean(table[2:7], 0) + table[-1, :] + table[3, 1] + table[ids[0, 0]]
        return tf.reduce_mean(ragged, 1) + tf.reduce_mean(tf.reshape(sparse, [-1, 3, DIM]), 1) + indexed


def test_kinds_of_ids(one_worker):
    assert_alike(one_worker, KindsOfIds, sgd)


class Negative(Parts):
    """Ids that count from the end, of the variable and of its value; the last ones depend on rows."""

    def __init__(self):
        super().__init__()
        self.table = keras.layers.Embedding(ROWS, DIM, embeddings_regularizer="l2")

    def rows(self, ids):
        first = keras.ops.take(self.table.embeddings, ids[:, 0], axis=0)
        second = keras.ops.take(self.table.embeddings.value, ids[:, 1], axis=0)
        follows = ids[:, 2] + tf.cast(tf.reduce_sum(first, -1) > 1e9, tf.int64)
        return first + second + keras.ops.take(self.table.embeddings, follows, axis=0)


def test_negative_ids_are_those_that_they_stand_for(one_worker):
    def trained(ids):
        keras.utils.set_random_seed(1)
        with one_worker.scope():
            model = Negative()
            model.compile(sgd(), "mse")
        losses = model.fit(ids, CLASSES, batch_size=4, shuffle=False, verbose=0).history["loss"]
        return [*model.get_weights(), np.array(losses), model(ids).numpy()]

    for ours, theirs in zip(trained(IDS - ROWS), trained(IDS), strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Tied(keras.Model):
    """Two ways to use a table as an output layer."""

    def __init__(self):
        super().__init__()
        self.plain = keras.layers.Embedding(ROWS, DIM)
        self.reversible = keras.layers.ReversibleEmbedding(ROWS, DIM)

    def call(self, ids):
        hidden = keras.ops.mean(self.plain(ids) + self.reversible(ids), 1)
        output = keras.ops.transpose(self.plain(keras.ops.arange(ROWS)))
        return keras.ops.matmul(hidden, output) + self.reversible(hidden, reverse=True)


@pytest.mark.skipif(not hasattr(keras.layers, "ReversibleEmbedding"), reason="this Keras has no such layer")
def test_tied_output_layers(one_worker):
    assert_alike(one_worker, Tied, sgd, y=CLASSES, loss=logits())


class Loops(Parts):
    """Lookups whose ids a loop computes from rows, or which only one branch makes."""

    def rows(self, ids):
        def body(i, current, total):
            rows = self.table(current)
            following = tf.cast(tf.reduce_sum(rows * 100, -1), tf.int64) + current
            return i + 1, tf.math.floormod(following, ROWS), total + rows

        total = tf.zeros([tf.shape(ids)[0], DIM])
        total = tf.while_loop(lambda i, *_: i < 3, body, (0, ids[:, 0], total))[2]
        total += tf.map_fn(lambda one: tf.reduce_mean(self.table(one), 0), ids, fn_output_signature=tf.float32)
        total += tf.vectorized_map(lambda one: tf.reduce_mean(self.table(one), 0), ids)
        total += tf.cond(
            tf.reduce_sum(ids) % 2 == 0, lambda: tf.reduce_mean(self.table(ids), 1), lambda: tf.zeros_like(total)
        )
        # A whole table within a loop is read once, before the loop.
        scale = lambda one: tf.reduce_sum(self.table.embeddings) * tf.cast(one[0], tf.float32)  # noqa: E731
        whole = tf.map_fn(scale, ids, fn_output_signature=tf.float32)
        return total + self.table(ids[:, 1]) + whole[:, None] / 10_000


@pytest.mark.parametrize("mode", ["async", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("geo", "sync"))])
def test_lookups_in_branches_and_loops(one_worker, mode):
    assert_alike(one_worker, Loops, sgd, mode)


class Cell(keras.layers.Layer):
    """A cell that looks up rows in each step."""

    state_size = output_size = DIM

    def __init__(self):
        super().__init__()
        self.table, self.kernel = keras.layers.Embedding(ROWS, DIM), keras.layers.Dense(DIM)

    def build(self, shape):
        self.table.build()
        self.kernel.build((None, DIM))

    def call(self, ids, states):
        state = keras.ops.tanh(self.table(ids[:, 0]) + self.kernel(states[0]))
        return state, [state]


def test_lookups_in_a_cell(one_worker):
    def make():
        inputs = keras.Input((3, 1))
        return keras.Model(inputs, keras.layers.Dense(1)(keras.layers.RNN(Cell())(inputs)))

    assert_alike(one_worker, make, sgd, x=IDS[..., None].astype("float32"))


class Functions(Parts):
    """A `tf.function` as `call`, with a loop that AutoGraph converts, and another within it that has a signature."""

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int64)])
    def mean(self, ids):
        return tf.reduce_mean(self.table(ids), 1)

    @tf.function
    def call(self, ids):
        total = self.mean(ids) + self.mean(ids[:, :2])
        for i in tf.range(3):
            if i > 0:
                total = total + self.table(ids[:, i])
        return self.top(total) + tf.matmul(total, self.table.embeddings, transpose_b=True)[:, :1]


@pytest.mark.parametrize("mode", ["async", pytest.param("geo", marks=pytest.mark.slow)])
def test_functions_of_tensorflow(one_worker, mode):
    assert_alike(one_worker, Functions, sgd, mode)


class Compiled(Parts):
    """Functions that ask for XLA: Keras's of a convolution that TensorFlow has on CPUs only so, and of one's own."""

    def __init__(self):
        super().__init__()
        self.convolution = keras.layers.Conv3D(DIM, 1, groups=2)

    def build(self, shape):
        super().build(shape)
        self.convolution.build((None, 3, 1, 1, DIM))

    @tf.function(jit_compile=True)
    def found(self, ids):
        return self.table(ids)

    def rows(self, ids):
        rows = self.found(ids)[:, :, None, None]
        return tf.reduce_mean(self.convolution(rows), [1, 2, 3])


@pytest.mark.parametrize("mode", ["async", pytest.param("geo", marks=pytest.mark.slow)])
def test_functions_that_xla_compiles(one_worker, mode):
    assert_alike(one_worker, Compiled, sgd, mode)


class Counts(keras.Model):
    """Its gradient is -1 for every place of a table, so that a row of it counts what was applied."""

    def __init__(self):
        super().__init__()
        self.table = keras.layers.Embedding(ROWS, DIM, embeddings_initializer="zeros")

    def build(self, shape):
        self.table.build()

    def call(self, ids):
        rows = tf.map_fn(lambda one: tf.reduce_sum(self.table(one), 0), ids, fn_output_signature=tf.float32)
        return rows + self.table(ids[:, 0])


@pytest.mark.parametrize("mode", ["async", pytest.param("geo", marks=pytest.mark.slow)])
def test_every_row_of_a_loop_counts_once(strategy, mode):
    with strategy.scope():
        model = Counts()
        optimizer = keras.optimizers.SGD(1.0)
        model.compile(MODES[mode](optimizer), lambda y, found: -tf.reduce_sum(found) * tf.ones_like(found[:, :1]))
    model.fit(tf.data.Dataset.from_tensor_slices((IDS, CLASSES)).batch(4), epochs=2, verbose=0)
    seen = np.bincount(np.concatenate([IDS.reshape(-1), IDS[:, 0]]), minlength=ROWS)
    np.testing.assert_array_equal(model.table.get_weights()[0], np.repeat(2.0 * seen[:, None], DIM, 1))
