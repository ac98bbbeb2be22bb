"""What a step keeps and computes, against counts by hand."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
from tfps.errors import PlanError  # noqa: E402
from tfps.keras.choosing import find_footprint  # noqa: E402

layers = keras.layers
BATCH = 8
# The loss keeps a few numbers: the differences and the number of examples.
LOSS = 4 * BATCH + 64


def count(*stack, loss="mse", optimizer="adam", batch=BATCH, model=keras.Sequential):
    def build():
        made = model(list(stack))
        made.compile(optimizer, loss)
        return made

    return find_footprint(build, batch).step


def test_dense_layers_keep_their_outputs():
    step = count(keras.Input((32,)), layers.Dense(64, "relu"), layers.Dense(48, "relu"), layers.Dense(1))
    outputs = 4 * BATCH * (64 + 48)
    assert outputs <= step.activation_bytes <= outputs + LOSS
    assert step.largest_bytes == 4 * BATCH * 64
    # Forward, and both gradients of each product but that of the inputs.
    products = [(32, 64), (64, 48), (48, 1)]
    assert step.flops == 2 * BATCH * (3 * sum(a * b for a, b in products) - 32 * 64)


def test_without_an_activation_function_a_dense_layer_keeps_nothing_of_its_own():
    step = count(keras.Input((32,)), layers.Dense(64), layers.Dense(1))
    # The second layer keeps its input, the output of the first.
    assert 4 * BATCH * 64 <= step.activation_bytes <= 4 * BATCH * 64 + LOSS


def test_a_convolution_and_its_pooling():
    stack = (layers.Conv2D(8, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(1))
    step = count(keras.Input((16, 16, 3)), *stack)
    # 14 x 14 x 8 out of the convolution, 7 x 7 x 8 out of the pooling; Flatten has no buffer of its own.
    outputs = 4 * BATCH * (14 * 14 * 8 + 7 * 7 * 8)
    assert outputs <= step.activation_bytes <= outputs + LOSS
    convolution = 2 * BATCH * 14 * 14 * 8 * 3 * 3 * 3
    assert step.flops == 2 * convolution + 3 * 2 * BATCH * 7 * 7 * 8


@pytest.mark.parametrize("steps", [3, 11])
def test_a_recurrent_layer_keeps_each_turn(steps):
    units, features = 16, 5
    step = count(keras.Input((steps, features)), layers.LSTM(units), layers.Dense(1))
    # Of each turn: the old h and c, three gates, two tanh, and the input. At the end: h.
    turns = 4 * BATCH * steps * (7 * units + features)
    assert turns <= step.activation_bytes <= turns + 4 * BATCH * units + LOSS
    products = 2 * BATCH * steps * (features + units) * 4 * units
    # The gradient of the input is not needed.
    inputs = 2 * BATCH * steps * features * 4 * units
    assert step.flops in (products * 3 + 6 * BATCH * units, products * 3 - inputs + 6 * BATCH * units)
    assert not step.endless


def test_dropout_keeps_a_mask_and_a_lookup_keeps_its_ids():
    step = count(
        keras.Input((4,), dtype="int64"),
        layers.Embedding(10**7, 16),
        layers.Flatten(),
        layers.Dropout(0.5),
        layers.Dense(1),
    )
    # The output of the dropout (the input of Dense) and its mask; the ids with negative ones counted from the end.
    outputs = BATCH * 4 * (16 * 4 + 16 * 1 + 8)
    assert outputs <= step.activation_bytes <= outputs + LOSS
    assert step.guessed == 0


def test_attention_is_counted():
    def build():
        sequence = keras.Input((10, 32))
        model = keras.Model(sequence, layers.MultiHeadAttention(4, 8)(sequence, sequence))
        model.compile("adam", "mse")
        return model

    step = find_footprint(build, BATCH).step
    projection, product = 2 * BATCH * 10 * 32 * 32, 2 * BATCH * 4 * 10 * 10 * 8
    # Four projections have the gradient of their kernels, and one that of its input. Two products have all gradients.
    assert step.flops == (4 + 4 + 1) * projection + 3 * 2 * product
    assert step.guessed == 0


def test_what_grows_with_the_batch_grows_with_it():
    stack = (keras.Input((32,)), layers.Dense(64, "relu"), layers.Dense(1))
    small, large = (count(*stack, batch=batch) for batch in (8, 80))
    assert large.activation_bytes == pytest.approx(10 * small.activation_bytes, rel=0.02)
    assert large.flops == 10 * small.flops
    assert large.operations == small.operations


class Twice(keras.Model):
    """A step of its own: a penalty on the gradient of the outputs, which takes a tape over a tape."""

    def __init__(self, stack, penalty=True):
        super().__init__()
        self.hidden, self.top = layers.Dense(64, "tanh"), layers.Dense(1)
        self.penalty = penalty
        self.build((None, 32))

    def build(self, shape):
        self.hidden.build(shape)
        self.top.build((None, 64))
        super().build(shape)

    def call(self, x):
        return self.top(self.hidden(x))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(x)
                outputs = self(x, training=True)
            loss = tf.reduce_mean((outputs - y) ** 2)
            if self.penalty:
                loss += tf.reduce_mean(inner.gradient(outputs, x) ** 2)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}


def test_steps_of_users_are_traced_and_a_tape_over_a_tape_keeps_more():
    def build(penalty):
        def make():
            model = Twice([], penalty)
            model.compile("adam", "mse")
            return model

        return make

    spec = tf.TensorSpec((None, 32), "float32")
    plain, penalized = (find_footprint(build(penalty), BATCH, spec).step for penalty in (False, True))
    assert 4 * BATCH * 64 <= plain.activation_bytes <= 4 * BATCH * 64 + LOSS
    # Of the inner tape, at least the gradient of tanh and the gradient of the input.
    assert penalized.activation_bytes >= plain.activation_bytes + 4 * BATCH * (64 + 32)


def test_labels_of_classes_and_of_several_outputs():
    features = keras.Input((4,))

    def build():
        hidden = layers.Dense(8)(features)
        model = keras.Model(features, {"a": layers.Dense(3, name="a")(hidden), "b": layers.Dense(1, name="b")(hidden)})
        model.compile("sgd", {"a": "sparse_categorical_crossentropy", "b": keras.losses.MeanSquaredError()})
        return model

    assert find_footprint(build, BATCH).step.flops > 0


def test_labels_of_a_dataset_are_taken_as_they_are():
    def build():
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
        model.compile("sgd", lambda y, outputs: keras.losses.mean_squared_error(y[:, 1], outputs))
        return model

    dataset = tf.data.Dataset.from_tensors((np.zeros((2, 4)), np.zeros((2, 5, 3))))
    assert find_footprint(build, BATCH, dataset).step.flops > 0
    with pytest.raises(PlanError, match="training step can be traced on a batch of 8.*tf.data.Dataset"):
        find_footprint(build, BATCH)


def test_an_unknown_length_is_asked_for_and_not_guessed():
    def build():
        model = keras.Sequential([keras.Input((None, 5)), layers.LSTM(4), layers.Dense(1)])
        model.compile("adam", "mse")
        return model

    with pytest.raises(PlanError, match=r"`inputs` must have known sizes.*Received: shape \(None, None, 5\)"):
        find_footprint(build, BATCH)
    short, long = (find_footprint(build, BATCH, np.zeros((1, steps, 5), "float32")).step for steps in (4, 8))
    assert long.activation_bytes > 1.8 * short.activation_bytes


def test_more_rows_than_an_int32_counts():
    model = footprint_of_rows(2**33)
    assert model.table_bytes == 2**33 * 16 * 4 * 3
    assert model.step == footprint_of_rows(10**7).step


def footprint_of_rows(rows):
    def build():
        model = keras.Sequential([keras.Input((4,), dtype="int64"), layers.Embedding(rows, 16), layers.Dense(1)])
        model.compile("adam", "mse")
        return model

    return find_footprint(build, BATCH)


def test_a_table_that_is_read_whole_counts_as_dense():
    """A softmax over all rows; a regularizer alone does not read all rows, as tfps applies it."""

    def build(tied):
        def make():
            ids = keras.Input((6,), dtype="int64")
            table = layers.Embedding(50_000, 64, embeddings_regularizer="l2")
            hidden = layers.GRU(64)(table(ids))
            top = TimesTable(table) if tied else layers.Dense(5)
            model = keras.Model(ids, top(hidden))
            model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            return model

        return make

    plain, tied = (find_footprint(build(tied), BATCH) for tied in (False, True))
    assert plain.whole_tables == () and plain.table_bytes == 50_000 * 64 * 4 * 3
    assert len(tied.whole_tables) == 1 and not tied.has_tables
    assert tied.gradient_bytes > 50_000 * 64 * 4
    assert tied.step.activation_bytes > 4 * BATCH * 50_000


class TimesTable(layers.Layer):
    def __init__(self, table):
        super().__init__()
        self.table = table

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.table.embeddings))
