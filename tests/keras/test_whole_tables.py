"""Tables that a step reads whole, or by TensorFlow's own row-wise functions: what one process does with them."""

import contextlib
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.embedding import whole
from tfps.errors import UnsupportedError

ROWS, DIM = 60, 4
IDS = np.random.default_rng(0).integers(0, ROWS, (96, 3))
CLASSES = IDS.sum(1) % ROWS
LABELS = (IDS.sum(1, keepdims=True) % 3).astype("float32")
MODES = {"async": lambda optimizer: optimizer, "sync": tfps.optimizers.Sync, "geo": tfps.optimizers.Geo}


def train(strategy, make, optimizer, mode="async", y=LABELS, x=IDS, loss="mse", batch=32):
    """Returns losses, predictions and weights of a model after `fit`, `evaluate`, `predict` and `train_on_batch`."""
    keras.utils.set_random_seed(3)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = make()
        chosen = optimizer()
        model.compile(MODES[mode](chosen) if strategy else chosen, loss)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch)
    found = [np.array(model.fit(data, epochs=2, verbose=0).history["loss"])]
    found += [np.array(model.evaluate(data, verbose=0)), model.predict(data, verbose=0)]
    # Trained on after a prediction: what a worker kept of a table must not be used again.
    model.train_on_batch(x[:batch], y[:batch])
    found += [np.array(model.test_on_batch(x[:batch], y[:batch])), model.predict_on_batch(x[:batch])]
    return [*found, *model.get_weights()]


def assert_alike(strategy, *args, **kwargs):
    for ours, theirs in zip(train(strategy, *args, **kwargs), train(None, *args, **kwargs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-5)


def logits():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Items(keras.Model):
    """Scores all items by the rows that it looks up too: a tied output layer."""

    def __init__(self):
        super().__init__()
        self.table = keras.layers.Embedding(ROWS, DIM)

    def call(self, ids):
        return keras.ops.matmul(keras.ops.mean(self.table(ids), 1), keras.ops.transpose(self.table.embeddings))


@pytest.mark.parametrize(
    ("mode", "optimizer"),
    [
        ("async", lambda: keras.optimizers.Adam(0.01, weight_decay=0.1, global_clipnorm=0.5)),
        ("sync", lambda: keras.optimizers.Adagrad(0.1)),
        ("geo", lambda: keras.optimizers.SGD(0.1)),
    ],
    ids=["async", "sync", "geo"],
)
def test_a_table_that_is_read_whole_trains_as_in_one_process(one_worker, caplog, mode, optimizer):
    assert_alike(one_worker, Items, optimizer, mode, CLASSES, loss=logits())
    said = [record.getMessage() for record in caplog.records if "whole" in record.getMessage()]
    assert len([line for line in said if "a training step reads table" in line and "960 B" in line]) == 1
    if mode == "async":
        # By one batch and by a whole call alike: the learning rate of a row depends on all its gradients.
        assert [line for line in said if "sampled_softmax_loss" in line]


def test_several_workers_read_a_whole_table(strategy, caplog):
    caplog.set_level(logging.INFO, "tfps")
    found = train(strategy, Items, lambda: keras.optimizers.SGD(0.1), y=CLASSES, loss=logits())
    assert found[0][1] < found[0][0] and found[2].shape == (96, ROWS)
    for call in ("evaluate", "predict"):
        said = [record for record in caplog.records if record.getMessage().startswith(f"{call} reads table")]
        assert len(said) == 1 and "960 B cross to each worker once a call" in said[0].getMessage()


def test_a_worker_reads_a_table_once_in_a_call_and_chunk_by_chunk(one_worker, monkeypatch):
    monkeypatch.setattr(whole, "_CHUNK_BYTES", 7 * DIM * 4)
    with one_worker.scope():
        model = Items()
        model.compile(keras.optimizers.SGD(0.1), logits())
    data = tf.data.Dataset.from_tensor_slices((IDS, CLASSES)).batch(8)
    table = model.predict(data.map(lambda x, y: x), verbose=0) is not None and model.table.get_weights()[0]
    for factor in (1.0, 2.0):
        model.table.set_weights([factor * table])
        expected = (factor * table)[IDS].mean(1) @ (factor * table).T
        np.testing.assert_allclose(model.predict(data.map(lambda x, y: x), verbose=0), expected, rtol=1e-4, atol=1e-6)
        loss = logits()(CLASSES, expected)
        assert model.evaluate(data, verbose=0) == pytest.approx(float(loss), rel=1e-4)
    # Nothing of the table stays on the worker.
    for variables in (model.predict_function._variables, model.test_function.closures._variables):
        copies = [variable for variable in variables if variable.name.endswith(whole.WHOLE_SUFFIX)]
        assert copies
        for copy in copies:
            with tf.device(copy.device):
                assert not tf.raw_ops.VarIsInitializedOp(resource=copy.handle(tf.float32, [ROWS, DIM]))


def test_a_wide_dense_layer_is_a_table_that_trains(one_worker):
    wide = 100_000

    def make():
        encode = keras.layers.Lambda(lambda ids: tf.reduce_max(tf.one_hot(ids, wide), 1), output_shape=(wide,))
        return keras.Sequential(
            [keras.Input((3,), dtype="int64"), encode, keras.layers.Dense(2), keras.layers.Dense(1)]
        )

    assert_alike(one_worker, make, lambda: keras.optimizers.Adam(0.01), x=IDS * 1000, batch=48)


class RowWise(keras.Model):
    """Uses tables by functions of TensorFlow that need some rows."""

    def __init__(self):
        super().__init__()
        self.table, self.out = keras.layers.Embedding(ROWS, DIM), keras.layers.Embedding(ROWS, DIM)
        self.bias = self.add_weight(shape=(ROWS,), initializer="zeros", name="bias")
        self.sums = keras.layers.Dense(DIM)

    def build(self, shape):
        self.table.build()
        self.out.build()
        self.sums.build((None, ROWS))

    def call(self, ids):
        rows = self.table.embeddings
        indices = tf.stack([tf.repeat(tf.range(tf.shape(ids, tf.int64)[0]), 3), tf.reshape(ids, [-1])], 1)
        counts = tf.sparse.SparseTensor(indices, tf.ones([tf.size(ids)]) / 2, [tf.shape(ids, tf.int64)[0], ROWS])
        dense = tf.reduce_mean(tf.nn.embedding_lookup(rows, ids), 1) + tf.sparse.sparse_dense_matmul(counts, rows)
        bags = tf.sparse.from_dense(ids)  # an id 0 is a place without one
        pooled = tf.nn.safe_embedding_lookup_sparse(rows.value, bags, combiner="sum")
        pooled += tf.nn.embedding_lookup_sparse(rows.value, tf.sparse.from_dense(1 + ids % (ROWS - 1)), None, "mean")
        return dense + pooled + tf.reduce_mean(tf.reshape(self.table(bags), [-1, 3, DIM]), 1)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y = tf.reshape(tf.cast(y, tf.int64), [-1, 1])
        sampled = tf.range(20, dtype=tf.int64), tf.fill(tf.shape(y), 0.3), tf.fill([20], 0.2)
        one = tf.nn.sampled_softmax_loss(self.out.embeddings, self.bias, y, y_pred, 20, ROWS, sampled_values=sampled)
        other = tf.nn.nce_loss(self.out.embeddings, self.bias, y, y_pred, 20, ROWS, sampled_values=sampled)
        return tf.reduce_mean(one) + tf.reduce_mean(other)


def test_functions_of_tensorflow_that_need_some_rows_read_no_more(one_worker, caplog):
    assert_alike(one_worker, RowWise, lambda: keras.optimizers.SGD(0.1), y=CLASSES, loss=None)
    assert not [record for record in caplog.records if "whole" in record.getMessage()]


class Regularized(Items):
    """Keras regularizes the whole table."""

    def __init__(self):
        super().__init__()
        self.table = keras.layers.Embedding(ROWS, DIM, embeddings_regularizer=keras.regularizers.L2(0.1))


def test_a_table_that_is_read_whole_is_regularized_whole(one_worker):
    assert_alike(one_worker, Regularized, lambda: keras.optimizers.SGD(0.1), y=CLASSES, loss=logits())


class Calculated(Items):
    """Calculates with whole tables by the operators of Python."""

    def call(self, ids):
        looked_up = tf.reduce_mean(self.table(ids), 1)
        table, rows = self.table.embeddings, self.table.embeddings.value
        numbers = np.arange(ROWS * DIM, dtype="float32").reshape(ROWS, DIM) / 100
        total = -table + abs(table) + 2 * rows - rows**2 + numbers * rows + tf.where(rows > 0, rows, 0.0)
        return looked_up @ tf.transpose(rows) + tf.reduce_sum(total, 1)


def test_operators_on_a_whole_table(one_worker):
    assert_alike(one_worker, Calculated, lambda: keras.optimizers.SGD(0.01), y=CLASSES, loss=logits())
    with one_worker.scope():
        model = Items()
    model.table.build()
    table, expected = model.table.embeddings, model.table.get_weights()[0]
    for ours, theirs in ((-table, -expected), (table.value @ expected.T, expected @ expected.T)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert {table.value.ref(): 1}[table.value.ref()] == 1


class Recomputed(Items):
    def call(self, ids):
        return tf.recompute_grad(self.table)(ids)[:, 0]


class Clipped(Items):
    def train_step(self, data):
        logs = super().train_step(data)
        self.table.embeddings.assign(keras.ops.clip(self.table.embeddings, -0.1, 0.1))
        return logs


class AsArray(Items):
    def call(self, ids):
        return super().call(ids) + np.asarray(self.table.embeddings).sum()


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (Recomputed, UnsupportedError, "recompute_grad.*look up the rows before"),
        (Clipped, UnsupportedError, "a step cannot assign table.*from a callback"),
        (AsArray, NotImplementedError, "as an array.*keras.ops"),
    ],
)
def test_what_a_step_cannot_do_with_a_table_is_refused(one_worker, kind, error, message):
    with one_worker.scope():
        model = kind()
        model.compile("sgd", logits())
    with pytest.raises(error, match=message):
        model.fit(IDS, CLASSES, verbose=0)


class ByHand(Items):
    """Changes gradients by hand, which makes them dense."""

    def call(self, ids):
        return tf.reduce_mean(self.table(ids), 1)

    def train_step(self, data):
        x, y = data[:2]
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = [tf.convert_to_tensor(g) / 2 for g in tape.gradient(loss, self.trainable_variables)]
        self.optimizer.apply(gradients, self.trainable_variables)
        self._loss_tracker.update_state(loss)
        return self.get_metrics_result()


@pytest.mark.parametrize("mode", ["async", "sync", "geo"])
def test_a_dense_gradient_of_a_table_updates_all_rows(one_worker, mode):
    assert_alike(one_worker, ByHand, lambda: keras.optimizers.SGD(0.1), mode, np.ones((96, DIM), "float32"))
