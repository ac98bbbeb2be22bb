"""tfps.nn against tf.nn: the same calls on the same rows, in a step on workers and servers and eagerly on the chief."""

import collections
import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.errors import ConfigError, IdRangeError, UnsupportedError
from tfps.ops import library

ROWS, DIM, BAGS = 3000, 4, 9  # enough rows for two servers
SIZES = [2, 0, 5, 1, 7, 0, 3, 0, 0]  # of the bags; those of `full` are one more
COMBINERS = ("sum", "mean", "sqrtn")
# Traced and differentiated in a step: each kind of call and each combiner, but not all together as on the chief.
IN_STEP = (
    "dense",
    "dense, clipped",
    "ragged",
    "some, sum, weights",
    "some, mean, weights",
    "full, sqrtn",
    "mean, clipped",
    "safe wild, mean",
    "safe sparse, sqrtn, default",
    "cube",
)


def inputs(seed):
    """Random ids and weights: ragged, sparse and dense, with and without empty bags, negative ids and weights."""
    random = np.random.default_rng(seed)

    def some_ids(low, shape):
        return random.integers(low, 30, shape) * 100  # so few that most come several times

    def ragged(sizes, low=0):
        ids = tf.RaggedTensor.from_row_lengths(some_ids(low, sum(sizes)), sizes)
        return ids, ids.with_flat_values(random.normal(0.5, 1, sum(sizes)).astype("float32"))

    some, some_weights = ragged(SIZES)
    full, full_weights = ragged([size + 1 for size in SIZES])
    wild, wild_weights = ragged(SIZES, low=-15)
    cube = tf.sparse.reshape(wild.to_sparse(), [3, 3, -1])
    return {
        "dense": tf.constant(some_ids(0, (BAGS, 3)), tf.int32),
        "some": some,
        "some_weights": some_weights,
        "full": full,
        "full_weights": full_weights,
        "wild": wild,
        "wild_weights": wild_weights,
        "sparse": wild.to_sparse(),
        "sparse_weights": wild_weights.to_sparse(),
        "cube": cube,
        "cube_weights": tf.SparseTensor(cube.indices, wild_weights.flat_values, cube.dense_shape),
    }


NO_BAGS = tf.SparseTensor(np.zeros((0, 2), np.int64), np.zeros(0, np.int64), [0, 6])


def calls(nn, x):
    """Every kind of call, by name: functions of `params`; `nn` is tf.nn or tfps.nn."""
    pool, safe = nn.embedding_lookup_sparse, nn.safe_embedding_lookup_sparse
    found = {
        "dense": lambda params: nn.embedding_lookup(params, x["dense"]),
        "dense, clipped": lambda params: nn.embedding_lookup([params], x["dense"], max_norm=0.7),
        "ragged": lambda params: nn.embedding_lookup(params, x["some"], name="ragged").flat_values,
        "ragged, clipped": lambda params: nn.embedding_lookup(params, x["some"], max_norm=0.7).flat_values,
        "default combiner": lambda params: pool(params, x["full"], None),
        "cube": lambda params: safe(params, x["cube"], x["cube_weights"]),
        "cube, default": lambda params: safe(params, x["cube"], default_id=3),
        "no bags": lambda params: safe(params, NO_BAGS),
        "no bags, default": lambda params: safe(params, NO_BAGS, default_id=3),
        "no bags, default, weights": lambda params: safe(params, NO_BAGS, tf.cast(NO_BAGS, tf.float32), default_id=3),
    }
    for combiner, kind in itertools.product(COMBINERS, ("some", "full")):
        arguments = {"sp_ids": x[kind], "combiner": combiner}
        found[f"{kind}, {combiner}"] = functools.partial(pool, sp_weights=None, **arguments)
        found[f"{kind}, {combiner}, weights"] = functools.partial(pool, sp_weights=x[f"{kind}_weights"], **arguments)
    for combiner in COMBINERS:
        arguments = {"sp_ids": x["full"].to_sparse(), "sp_weights": x["full_weights"].to_sparse(), "max_norm": 0.7}
        found[f"{combiner}, clipped"] = functools.partial(pool, combiner=combiner, **arguments)
    for combiner, kind in itertools.product(COMBINERS, ("wild", "sparse")):
        arguments = {"sparse_ids": x[kind], "combiner": combiner}
        weighted = {**arguments, "sparse_weights": x[f"{kind}_weights"]}
        found[f"safe {kind}, {combiner}"] = functools.partial(safe, **arguments)
        found[f"safe {kind}, {combiner}, weights"] = functools.partial(safe, **weighted)
        found[f"safe {kind}, {combiner}, default"] = functools.partial(safe, default_id=0, max_norm=0.7, **weighted)
    return found


def results(nn, params, x, names=None):
    found = calls(nn, x)
    return {name: found[name](params) for name in names or found}


def loss_of(outputs):
    """Weighs every element of every result differently, so that each has a gradient of its own."""
    waves = [tf.sin(tf.cast(tf.range(tf.size(out)), out.dtype)) for out in outputs.values()]
    return sum(tf.reduce_sum(tf.reshape(out, [-1]) * wave) for out, wave in zip(outputs.values(), waves, strict=True))


def tilted(weights, tilt):
    """The same weights made to follow from a variable, each in a way of its own."""
    flat = weights.flat_values
    return weights.with_flat_values(flat + tilt * tf.cos(tf.range(tf.size(flat), dtype=flat.dtype)))


def in_step(nn, table, matrix, tilt, x):
    """Calls on a table, and on a variable that is no table."""
    # Not those of safe lookups: which ids are left there would be known only when the variable is.
    x = x | {name: tilted(x[name], tilt) for name in ("some_weights", "full_weights")}
    dense = {f"no table: {name}": value for name, value in results(nn, matrix, x, ["some, mean, weights"]).items()}
    return {**results(nn, table, x, IN_STEP), **dense}


class Lookups(keras.Model):
    def __init__(self):
        super().__init__()
        self.table = keras.layers.Embedding(ROWS, DIM, embeddings_initializer=keras.initializers.RandomNormal(seed=1))
        self.matrix = self.add_weight((ROWS, DIM), keras.initializers.RandomNormal(seed=2))
        self.tilt = self.add_weight((), "zeros")

    def build(self, input_shape=None):
        self.table.build()

    def call(self, x):
        if not isinstance(x, dict):
            x = tf.nest.pack_sequence_as(inputs(0), x, expand_composites=True)
        return in_step(tfps.nn, self.table.embeddings, self.matrix, self.tilt, x)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = loss_of(self(data, training=True))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"total": loss}


@pytest.fixture(scope="module")
def model(strategy):
    with strategy.scope():
        model = Lookups()
        model.build()
        model.compile(optimizer=keras.optimizers.SGD(1.0))
    return model


def rows(model):
    return [tf.Variable(variable.numpy()) for variable in (model.table.embeddings, model.matrix, model.tilt)]


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, result in ours.items():
        np.testing.assert_allclose(result, theirs[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_values_in_a_step_are_those_of_tf_nn(model):
    x = inputs(0)
    parts = tuple(tf.nest.flatten(x, expand_composites=True))
    predicted = model.predict(tf.data.Dataset.from_tensors((parts,)), verbose=0)
    same(predicted, in_step(tf.nn, *rows(model), x))


def test_gradients_in_a_step_are_those_of_tf_nn(model):
    before, x = rows(model), inputs(1)
    with tf.GradientTape() as tape:
        loss = loss_of(in_step(tf.nn, *before, x))
    gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, before)]
    assert abs(float(gradients[2])) > 0.01
    history = model.fit(tf.data.Dataset.from_tensors(x), verbose=0)
    assert history.history["total"][0] == pytest.approx(float(loss), rel=1e-4)
    for old, gradient, new in zip(before, gradients, rows(model), strict=True):
        np.testing.assert_allclose(old - new, gradient, rtol=1e-4, atol=1e-4)
    concrete, *_ = model.train_function.closures.by_iterator.values()
    graph = concrete.graph.as_graph_def()
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    if library.available():
        asks_each_server_once(bodies)
        pools_rows_as_they_came([node for body in bodies for node in body])


def asks_each_server_once(bodies):
    """For a step, or for the next one while it computes: each has a body of its own."""
    reads = ("TfpsGatherRows", "ResourceGather")
    asked = [[node.device for node in body if "/job:ps" in node.device and node.op in reads] for body in bodies]
    assert {tuple(sorted(devices)) for devices in asked if devices} == {tuple(sorted({*itertools.chain(*asked)}))}


def pools_rows_as_they_came(nodes):
    """Every pooled lookup combines and its gradient sums in one op; only plain ones copy rows out by the element."""
    pooled = [name for name in IN_STEP if "dense" not in name and name != "ragged"]
    used = collections.Counter(node.op for node in nodes)
    assert used["TfpsCombineRows"] >= used["TfpsCombineRowsGrad"] == len(pooled)
    assert used["TfpsCombineWeightsGrad"] >= 3


def test_eager_values_on_the_chief_are_those_of_tf_nn(model):
    x = inputs(2)
    same(results(tfps.nn, model.table.embeddings, x), results(tf.nn, rows(model)[0], x))
    table = model.table.embeddings._value
    np.testing.assert_array_equal(tfps.nn.embedding_lookup(table, 3), tf.nn.embedding_lookup(rows(model)[0], 3))
    no_ids = tf.ragged.constant([[], []], dtype=tf.int64)
    assert tfps.nn.embedding_lookup_sparse(table, no_ids, None).shape == (0, DIM)
    assert tfps.nn.safe_embedding_lookup_sparse(table, no_ids).numpy().tolist() == [[0.0] * DIM] * 2


def test_what_is_no_table_goes_to_tf_nn():
    x, whole = inputs(3), tf.random.stateless_normal([ROWS, DIM], [1, 2])
    for params in (whole, tf.Variable(whole)):
        same(results(tfps.nn, params, x), results(tf.nn, params, x))
    parts = [whole[:1500], whole[1500:]]
    np.testing.assert_array_equal(
        tfps.nn.embedding_lookup(parts, x["dense"]), tf.nn.embedding_lookup(whole, x["dense"])
    )


def test_an_id_out_of_range_names_table_id_and_range(model):
    table, name = model.table.embeddings, model.table.embeddings._value.name
    for lookup in (tfps.nn.embedding_lookup, lambda *args: tfps.nn.embedding_lookup_sparse(*args, None)):
        with pytest.raises(IdRangeError, match=rf"{name}.*below {ROWS}.*3333"):
            lookup(table, tf.ragged.constant([[1], [3333]]))
        with pytest.raises(IdRangeError, match=rf"{name}.*below {ROWS}.*-1"):
            lookup(table, tf.ragged.constant([[1], [-1]]))
    with pytest.raises(IdRangeError, match=f"below {ROWS}. Received: {ROWS}, at ids"):
        tfps.nn.safe_embedding_lookup_sparse(table, tf.ragged.constant([[]], dtype=tf.int32), default_id=ROWS)


def test_wrong_arguments_are_told_what_is_valid(model):
    table, ids = model.table.embeddings, tf.ragged.constant([[1, 2], [3]])
    sparse = tfps.nn.embedding_lookup_sparse
    for lookup in (sparse, tfps.nn.safe_embedding_lookup_sparse):
        with pytest.raises(ConfigError, match="combiner.*sqrtn.*'max'"):
            lookup(table, ids, None, "max")
        with pytest.raises(TypeError, match="ids.*EagerTensor.*RaggedTensor"):
            lookup(table, tf.constant([1]), None)
        with pytest.raises(TypeError, match="weights.*SparseTensor"):
            lookup(table, ids, tf.ragged.constant([[1.0, 2.0], [3.0]]).to_sparse())
    with pytest.raises(ValueError, match="shape"):
        sparse(table, ids.to_sparse(), tf.ragged.constant([[1.0]]).to_sparse())
    with pytest.raises(ValueError, match="two dimensions"):
        sparse(table, tf.ragged.constant([[[1]]]), None)
    with pytest.raises(TypeError, match="int32, int64"):
        tfps.nn.embedding_lookup(table, [0.5])
    with pytest.raises(ConfigError, match="`max_norm` must be a number of at least 0.*'x'"):
        tfps.nn.embedding_lookup(table, ids, max_norm="x")
    with pytest.raises(ConfigError, match="`default_id` must be an integer of at least 0.*'x'"):
        tfps.nn.safe_embedding_lookup_sparse(table, ids, default_id="x")
    with pytest.raises(UnsupportedError, match="already splits the table"):
        tfps.nn.embedding_lookup([table, table], ids)
