"""Several devices of a worker share each batch: the result is that of one device, and so is what crosses."""

import collections
import contextlib
import gc
import time
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.training.test_custom_loop import schedule
from tests.training.test_traffic import crossings
from tfps.cluster.cards import share_of_cards
from tfps.errors import ConfigError, UnsupportedError
from tfps.strategy.step_devices import choose_step_devices
from tfps.training.device_batches import divide, share_spec
from tfps.training.taking_turns import TurnTaker

LOGICAL = ("/device:CPU:0", "/device:CPU:1")
CARDS = ("/device:GPU:0", "/device:GPU:1")


@pytest.fixture(params=["CPU", pytest.param("GPU", marks=pytest.mark.gpu)])
def devices(request, strategy):
    """The devices that share a batch: two logical CPU devices, or all cards of a worker."""
    if request.param == "CPU":
        return LOGICAL
    found = choose_step_devices(None, strategy.num_workers)
    if not found:
        pytest.skip("no worker has a card")
    return found


@contextlib.contextmanager
def on(strategy, step_devices):
    before, strategy.step_devices = strategy.step_devices, tuple(step_devices)
    try:
        yield
    finally:
        strategy.step_devices = before


def trained(strategy, step_devices, make, data, **settings):
    """The weights, slots and logs after two epochs, and what the model then says."""
    keras.utils.set_random_seed(7)
    with on(strategy, step_devices):
        with strategy.scope():
            model = make()
        history = model.fit(data, epochs=2, verbose=0, **settings).history
        metrics = model.evaluate(data, verbose=0)
        outputs = model.predict(data, verbose=0)
    slots = [np.asarray(variable) for variable in model.optimizer.variables]
    return [*model.get_weights(), *slots, *history.values(), metrics, outputs]


def assert_equal(strategy, devices, make, data, **settings):
    one, several = (trained(strategy, chosen, make, data, **settings) for chosen in ((), devices))
    for ours, theirs in zip(several, one, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)


def clicks(batch=7):
    """22 examples, so that the last batch has one: less than there are devices."""
    random = np.random.default_rng(1)
    ids = random.integers(0, 40, (22, 3))
    return tf.data.Dataset.from_tensor_slices((ids, (ids[:, :1] % 2).astype("float32"), random.random(22))).batch(batch)


def click_model(optimizer, **settings):
    def make():
        ids = keras.Input((3,), dtype="int64")
        plain = keras.layers.Flatten()(keras.layers.Embedding(40, 4, **settings)(ids))
        joined = keras.layers.Concatenate()([plain, tfps.layers.EmbeddingBag(40, 4)(ids)])
        outputs = keras.layers.Dense(1, "sigmoid")(keras.layers.Dense(4, "relu", kernel_regularizer="l2")(joined))
        model = keras.Model(ids, outputs)
        model.compile(optimizer(), "binary_crossentropy", metrics=[keras.metrics.AUC(name="auc")])
        return model

    return make


MODES = {
    "async": lambda: keras.optimizers.Adagrad(0.1),
    "geo": lambda: tfps.optimizers.Geo(keras.optimizers.Adagrad(0.1), push_every=2),
    "sync": lambda: tfps.optimizers.Sync(keras.optimizers.Adagrad(0.1, global_clipnorm=0.5)),
}


@pytest.mark.parametrize("mode", ["async", pytest.param("geo", marks=pytest.mark.slow), "sync"])
def test_devices_give_what_one_device_gives(one_worker, devices, mode):
    assert_equal(one_worker, devices, click_model(MODES[mode]), clicks())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["Adam", "RMSprop"])
@pytest.mark.parametrize("repeats", [False, True])
def test_repeated_ids_are_those_of_the_whole_batch(one_worker, devices, monkeypatch, repeats, optimizer):
    monkeypatch.setattr(one_worker.factory, "keep_repeats", repeats)
    assert_equal(one_worker, devices, click_model(lambda: getattr(keras.optimizers, optimizer)(0.01)), clicks())


def test_the_regularizer_of_a_table_sees_the_rows_of_the_whole_batch(one_worker, devices):
    make = click_model(lambda: keras.optimizers.SGD(0.1), embeddings_regularizer="l2")
    assert_equal(one_worker, devices, make, clicks())


@pytest.mark.slow
def test_the_scale_of_a_loss_is_that_of_one_device(one_worker, devices):
    def make():
        policy = keras.DTypePolicy("mixed_float16")
        layers = keras.layers.Dense(4, "relu", dtype=policy), keras.layers.Dense(1)
        model = keras.Sequential([keras.Input((4,)), *layers])
        # A scale near that at which the gradients of a batch overflow.
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=2.0**15)
        model.compile(optimizer, "mse")
        return model

    one, several = (trained(one_worker, chosen, make, rows()) for chosen in ((), devices))
    for ours, theirs in zip(several, one, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-2, atol=2e-3)


class Several(keras.Model):
    """Two optimizers, one after the other, and every kind of state that a step may assign."""

    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(3), keras.layers.Dense(1)
        self.rate = keras.optimizers.SGD(0.05)

        def weight(name, shape=(), dtype="float32"):
            return self.add_weight(shape=shape, dtype=dtype, initializer="zeros", trainable=False, name=name)

        self.teacher, self.mean = weight("teacher", (4, 3)), weight("mean", (4,))
        self.seen, self.steps, self.greatest = (
            weight("seen", dtype="int32"),
            weight("steps", dtype="int32"),
            weight("most"),
        )

    def call(self, x):
        return self.second(self.first(x))

    def train_step(self, data):
        x, y = data
        losses = []
        # The gradients of the second optimizer see the update of the first.
        for layer, optimizer in ((self.first, self.optimizer), (self.second, self.rate)):
            with tf.GradientTape() as tape:
                losses.append(tf.reduce_mean((self(x) - y) ** 2))
            weights = layer.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(losses[-1], weights), weights, strict=True))
        self.teacher.assign(0.9 * self.teacher + 0.1 * self.first.kernel)
        self.mean.assign(0.5 * self.mean + 0.5 * tf.reduce_mean(x, 0))
        self.seen.assign_add(tf.shape(x)[0])
        self.steps.assign_add(1)
        self.greatest.assign(tf.maximum(tf.convert_to_tensor(self.greatest), tf.reduce_max(x)))
        return {"before": losses[0], "between": losses[1]}

    def test_step(self, data):
        return {"before": tf.reduce_mean((self(data[0]) - data[1]) ** 2)}


def rows(count=21, batch=10):
    x = np.random.default_rng(1).normal(size=(count, 4)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(batch)


def test_a_step_of_the_users_own_gives_what_one_device_gives(one_worker, devices):
    def make():
        model = Several()
        model.compile(keras.optimizers.SGD(0.05))
        model.build((None, 4))
        return model

    assert_equal(one_worker, devices, make, rows())


def test_workers_with_several_devices_train_together(strategy, no_young, devices):
    with on(strategy, devices):
        with strategy.scope():
            layers = keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)
            model = keras.Sequential(layers)
            model.compile(keras.optimizers.SGD(0.02), "mse", metrics=["mae"])
        history = model.fit(rows(400), epochs=2, verbose=0).history
    assert int(model.optimizer.iterations) == 2 * 40
    assert history["loss"][-1] < history["loss"][0]
    # The mean over devices of the means of their parts is the mean of the batch.
    x = next(iter(rows(400, 400)))[0]
    np.testing.assert_allclose(model.layers[0].moving_mean, tf.reduce_mean(x, 0), atol=0.05)


def test_a_hand_written_loop_computes_on_the_first_device(strategy, devices):
    with on(strategy, devices[::-1]):
        with strategy.scope():
            table = keras.layers.Embedding(20, 4, embeddings_initializer="zeros")
            layers = table, keras.layers.Dense(1, kernel_initializer="zeros")
            model = keras.Sequential([keras.Input((), dtype="int64"), *layers])
            optimizer, mean = keras.optimizers.SGD(1.0), keras.metrics.Mean()

        @tf.function
        def step(iterator):
            def replica(ids):
                with tf.GradientTape() as tape:
                    loss = -tf.reduce_sum(table(ids)) - tf.reduce_sum(model.layers[-1].bias)
                gradients = tape.gradient(loss, model.trainable_variables)
                pairs = [(g, v) for g, v in zip(gradients, model.trainable_variables, strict=True) if g is not None]
                optimizer.apply_gradients(pairs)
                mean.update_state(tf.ones([5]))
                return loss

            return strategy.run(replica, args=(next(iterator),))

        schedule(strategy, step, 10)
    assert int(optimizer.iterations) == 10 and float(mean.variables[1].numpy()) == 50.0
    np.testing.assert_array_equal(table.get_weights()[0], np.full((20, 4), 10.0))
    assert float(model.layers[-1].bias.numpy()[0]) == 10.0


def test_devices_draw_different_numbers(one_worker):
    class Draws(keras.Model):
        def __init__(self):
            super().__init__()
            self.drop = keras.layers.Dropout(0.5, seed=3)

        def predict_step(self, data):
            x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
            return self.drop(tf.ones([tf.shape(x)[0], 16]), training=True)

    with on(one_worker, LOGICAL):
        with one_worker.scope():
            model = Draws()
            model.compile()
        drawn = model.predict(np.zeros((8, 1), "float32"), batch_size=8, verbose=0)
    assert drawn.shape == (8, 16)
    assert (drawn[:4] != drawn[4:]).any()


def exists(variable):
    with tf.device(variable.device):
        return bool(tf.raw_ops.VarIsInitializedOp(resource=variable.handle()))


def test_the_copies_of_devices_end_with_their_model(one_worker):
    with on(one_worker, LOGICAL):
        with one_worker.scope():
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
            model.compile("sgd", "mse")
        model.fit(rows(), verbose=0)
    kernel = model.weights[0]._value.key
    copies = [one for one in model.train_function.closures._variables if one.name.startswith(f"tfps_copy_{kernel}_on")]
    assert {one.local_device for one in copies} == set(LOGICAL)
    assert sum(exists(one) for one in copies) == 2
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None
    deadline = time.monotonic() + 60
    while any(exists(one) for one in copies):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def trace(strategy, step_devices, make, data):
    """The nodes of the closure over a dataset, and of each function that it calls. Nothing runs."""
    with on(strategy, step_devices):
        with strategy.scope():
            model = make()
        model.optimizer.build(model.trainable_variables)
        model.make_train_function()
        kind = f"traced_on_{len(step_devices)}"
        graph = model.train_function.closures._trace_iterator(kind, data.element_spec, 1).graph.as_graph_def()
    return [list(graph.node), *(list(function.node_def) for function in graph.library.function)]


@pytest.mark.parametrize("cards", [CARDS[:1], CARDS])
def test_models_compute_on_cards_and_rows_stay_on_the_cpu(one_worker, cards):
    graphs = trace(one_worker, cards, click_model(lambda: keras.optimizers.Adagrad(0.1)), clicks())
    nodes = [node for graph in graphs for node in graph]
    places = collections.defaultdict(set)
    for node in nodes:
        places[node.op].add(node.device)
    assert places["MatMul"] == set(cards)
    ours = {op: devices for op, devices in places.items() if op.startswith("Tfps")}
    assert ours and not [devices for devices in ours.values() if any("GPU" in device for device in devices)]
    # Dense gradients are summed by NCCL, in one buffer.
    summed = [node for node in nodes if node.op == "NcclAllReduce"]
    assert [node.device for node in summed] == ([] if len(cards) == 1 else list(cards))


class EveryLookup(keras.Model):
    """Looks up a small table, and rows in a loop."""

    def __init__(self):
        super().__init__()
        self.small, self.table = keras.layers.Embedding(40, 4), keras.layers.Embedding(80, 4)
        self.dense = keras.layers.Dense(1)

    def call(self, ids):
        looped = tf.map_fn(self.table, tf.transpose(ids), fn_output_signature=tf.float32)
        return self.dense(tf.reduce_sum(self.small(ids), 1) + tf.reduce_sum(looped, 0))


def test_assertions_and_stacks_stay_on_the_cpu(one_worker, monkeypatch):
    """On a card an assertion does nothing, so ids out of range would pass."""
    monkeypatch.setattr(one_worker.factory.small_tables, "limit", 40 * 4 * 4)
    one_worker.factory.small_tables.begin_model()

    def make():
        model = EveryLookup()
        model.compile("sgd", "mse")
        model(np.zeros((1, 3), "int64"))
        return model

    nodes = [node for graph in trace(one_worker, CARDS, make, clicks()) for node in graph]
    watched = [node for node in nodes if node.op in ("Assert", "StackV2", "StackPushV2", "StackPopV2")]
    assert {"Assert", "StackV2", "StackPushV2", "StackPopV2"} == {node.op for node in watched}
    rows = [node for node in nodes if node.op.startswith("Tfps")]
    assert rows and not [node.name for node in (*watched, *rows) if "GPU" in node.device]


def test_as_much_crosses_for_several_devices_as_for_one(strategy):
    make = click_model(lambda: keras.optimizers.Adagrad(0.1))
    for chosen in ((), LOGICAL):
        counts = sorted(filter(None, (len(crossings(nodes)) for nodes in trace(strategy, chosen, make, clicks()))))
        # Dense variables of one server or both, there and back; a request, an answer and a push of a step to each.
        assert counts[0] in (2, 4) and counts[1:] == [3 * 2]


def stateful():
    layers = keras.Input((2, 3), batch_size=4), keras.layers.LSTM(2, stateful=True), keras.layers.Dense(1)
    return keras.Sequential(layers), "mse", np.zeros((4, 2, 3), "float32")


def summed():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    return model, keras.losses.MeanSquaredError(reduction="sum"), np.zeros((4, 3), "float32")


class Conditional(keras.Model):
    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self(data[0]) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        return {"loss": tf.cond(loss > 0, lambda: self.apply(gradients), lambda: 0.0)}

    def apply(self, gradients):
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return 1.0


def conditional():
    ids = keras.Input((3,))
    return Conditional(ids, keras.layers.Dense(1)(ids)), "mse", np.zeros((4, 3), "float32")


class Plain(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense, self.count = keras.layers.Dense(1), tf.Variable(0.0, name="count")

    def call(self, x):
        self.count.assign_add(1.0)
        return self.dense(x)


def plain():
    return Plain(), "mse", np.zeros((4, 3), "float32")


@pytest.mark.parametrize(
    ("make", "words"), [(plain, "count"), (stateful, "stateful"), (summed, "sum"), (conditional, "branch")]
)
def test_what_devices_cannot_share_is_refused(one_worker, make, words):
    with on(one_worker, LOGICAL):
        with one_worker.scope():
            model, loss, x = make()
            model.compile("sgd", loss)
        with pytest.raises(UnsupportedError, match=rf"{words}.*Valid: .*devices_per_worker=1"):
            model.fit(x, np.zeros((4, 1), "float32"), batch_size=4, verbose=0)


def test_no_worker_may_have_fewer_devices(strategy):
    if choose_step_devices(None, strategy.num_workers):
        pytest.skip("workers have cards")
    assert (
        choose_step_devices(1, strategy.num_workers) == () and choose_step_devices(2, strategy.num_workers) == LOGICAL
    )
    with pytest.raises(ConfigError, match=r"`devices_per_worker` must be at most 2, because worker 0 .* Received: 3"):
        choose_step_devices(3, strategy.num_workers)


@pytest.mark.parametrize(
    ("examples", "shares"), [(5, [[0, 1, 2], [3, 4]]), (4, [[0, 1], [2, 3]]), (1, [[0], [0]]), (0, [[], []])]
)
def test_a_batch_is_divided_evenly(examples, shares):
    x = tf.range(examples)
    rows = tf.RaggedTensor.from_row_lengths(tf.repeat(x, 2), tf.fill([examples], 2))
    sparse = tf.sparse.from_dense(tf.tile(x[:, None] + 1, [1, 3]))
    items = tf.zeros([9, 2])
    divided = divide(({"x": x, "rows": rows, "items": items, "sparse": sparse, "scalar": tf.constant(3.0)}, x, None), 2)
    for (features, labels, weights), share in zip(divided.batches, shares, strict=True):
        assert features["x"].numpy().tolist() == labels.numpy().tolist() == share and weights is None
        assert features["rows"].to_list() == [[one, one] for one in share]
        assert features["items"].shape == (9, 2) and features["scalar"].shape == ()
        assert tf.sparse.to_dense(features["sparse"]).numpy().tolist() == [[one + 1] * 3 for one in share]
    counts = [max(0, len(share) - (examples == 1 and number)) for number, share in enumerate(shares)]
    assert [float(one) for one in divided.examples] == counts
    assert examples == 0 or [float(one) * examples for one in divided.weights] == pytest.approx(counts)
    assert float(sum(divided.weights)) == 1.0


def test_the_spec_of_a_share_is_known_where_all_are_equal():
    spec = (tf.TensorSpec([8, 3]), tf.TensorSpec([8]), None)
    assert share_spec(spec, 2) == (tf.TensorSpec([4, 3]), tf.TensorSpec([4]), None)
    assert share_spec(spec, 3)[0] == tf.TensorSpec([None, 3])
    assert share_spec((tf.TensorSpec([9, 3]), spec[1]), 2)[0] == tf.TensorSpec([9, 3])


def test_functions_take_turns_and_their_errors_arrive():
    order = []
    with tf.Graph().as_default():

        def other():
            order.append("other")
            taker.pause()
            raise ValueError("of the other")

        taker = TurnTaker(other, contextlib.nullcontext())
        waiting = TurnTaker(lambda: waiting.pause(), contextlib.nullcontext())
        taker.resume()
        waiting.resume()
        order.append("first")
        with pytest.raises(ValueError, match="of the other"):
            taker.resume()
        waiting.cancel()
        assert order == ["other", "first"] and waiting.is_done and waiting.result is None


def test_workers_of_a_machine_divide_its_cards():
    assert [share_of_cards(number, 2, 5) for number in range(2)] == [[0, 2, 4], [1, 3]]
    assert [share_of_cards(number, 3, 2) for number in range(3)] == [[0], [1], [0]]
    assert share_of_cards(1, 2, 0) == []
