"""`FirstNaN` saves the first bad step with what it read, and `tfps-dump replay` runs it again to the same NaN."""

import json
import logging
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.debug import models
from tests.debug.models import BATCH, LATE_ID, LATE_STEP, inputs, trained
from tfps.callbacks import FirstNaN
from tfps.cli.dump import main
from tfps.debug.nan_file import read_saved
from tfps.debug.replay import replay
from tfps.errors import ConfigError, DumpError, NotFiniteError

MODES = {
    "asynchronous": lambda: keras.optimizers.SGD(0.1),
    "geo": lambda: tfps.optimizers.Geo(keras.optimizers.SGD(0.1), push_every=2),
    "sync": lambda: tfps.optimizers.Sync(keras.optimizers.SGD(0.1)),
}
BAD_STEP = 5


def bad_data(step=BAD_STEP):
    """One example of a step has a label that is no number, and two ids that no other example has."""
    x, y = inputs()
    y[step * BATCH + 1] = np.nan
    x["ids"][step * BATCH + 1] = [51, 50, 51]
    return x, y


def index_of(path, worker=0):
    return json.loads((path / f"worker-{worker:05d}" / "first-nan.json").read_text())


@pytest.fixture
def model_file(tmp_path):
    """Writes a file with a function `build`; returns the argument of `replay`."""

    def write(text):
        (tmp_path / "model.py").write_text(textwrap.dedent(text))
        return str(tmp_path / "model.py")

    return write


@pytest.mark.parametrize("mode", MODES)
def test_a_cluster_names_it_and_one_process_runs_it_again(strategy, no_young, monkeypatch, tmp_path, capsys, mode):
    monkeypatch.setattr(strategy, "on_nan", "stop")
    path = tmp_path / "nan"
    with pytest.raises(NotFiniteError, match=r"The step is saved in .*first-nan.npz, and `tfps-dump replay`") as caught:
        trained(strategy, [FirstNaN(path)], MODES[mode](), bad_data())
    # Batch 5 is the third one of worker 1, and a synchronous step has a batch of each worker.
    found = index_of(path, worker=1)
    assert found["step"] == (BAD_STEP if mode != "sync" else 2) and caught.value.worker == 1
    assert (found["layer"], found["kind"]) == ("loss", "activation")
    assert found["row_ids"] == {"items": [50, 51]}
    saved = read_saved(path)
    x, y = bad_data()
    part = slice(BAD_STEP * BATCH, (BAD_STEP + 1) * BATCH)
    np.testing.assert_array_equal(saved.batch_arrays[1], x["numbers"][part])
    assert main(["replay", f"{models.__file__}:build", str(path)]) == 0
    printed = capsys.readouterr().out
    assert f"Step {found['step']} of worker 1" in printed
    assert "Tensor 2 of the batch has 1 elements that are NaN or infinite, first at [1, 0]" in printed
    assert "First operation that is NaN or infinite: Sub, in the forward pass of layer 'loss'" in printed
    assert "Rows of layer 'items': 50, 51." in printed and "are the same ones as in the training" in printed
    again = replay(models.build, saved)
    assert again.is_same and again.bad == [tuple(one) for one in saved.bad]


def test_one_process_saves_it_too_and_says_so(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.WARNING, "tfps")
    model = trained(None, [FirstNaN(tmp_path)], data=bad_data(3))
    assert "FirstNaN: step 3 of worker 0 is not finite, first in layer 'loss'; the step is saved in /" in caplog.text
    # The steps after it are bad as well, and not saved.
    assert index_of(tmp_path)["step"] == 3 and np.isnan(model.get_weights()[0]).any()
    assert "train_step" not in vars(model)


def test_a_good_training_saves_nothing(tmp_path):
    trained(None, [FirstNaN(tmp_path / "nan")])
    with pytest.raises(DumpError, match="has no step of any worker: no loss or gradient was NaN"):
        read_saved(tmp_path / "nan")
    # The next training may use the folder.
    trained(None, [FirstNaN(tmp_path / "nan")], data=bad_data(0))
    with pytest.raises(ConfigError, match="`url` must be a folder without steps of another training. Received"):
        FirstNaN(tmp_path / "nan")
    with pytest.raises(ConfigError, match="`url` must be a URL that fsspec can open. Received: 'nosuch://a'"):
        FirstNaN("nosuch://a")


def test_bad_rows_are_found_where_they_are_read(one_worker, monkeypatch, tmp_path):
    monkeypatch.setattr(one_worker, "on_nan", "stop")

    def spoil(model):
        weights = model.get_weights()
        weights[0][LATE_ID, 2] = np.inf
        model.set_weights(weights)

    with pytest.raises(NotFiniteError):
        trained(one_worker, [FirstNaN(tmp_path)], change=spoil)
    found = index_of(tmp_path)
    assert (found["step"], found["layer"], found["kind"]) == (LATE_STEP, "items", "rows")
    assert LATE_ID in found["row_ids"]["items"]
    again = replay(models.build, read_saved(tmp_path))
    assert again.is_same and again.bad[0] == ("items", "rows", "embeddings") and again.layer == "items"


GROWING = """
    import keras, tensorflow as tf, tfps

    def build(optimizer="sgd", rows=10**11):
        words, bag = keras.Input((2,), dtype="string", name="words"), keras.Input((3,), dtype="int64", name="bag")
        parts = [
            keras.layers.Flatten()(tfps.layers.DynamicEmbedding(3, "ones", name="words_table")(words)),
            tfps.layers.DynamicEmbeddingBag(2, "mean", "ones", name="bag_table", mask_zero=True)(bag),
            tfps.layers.EmbeddingBag(rows, 2, "mean", "ones", name="fixed_table")(bag),
        ]
        joined = keras.layers.Concatenate()(parts)
        norm = keras.layers.BatchNormalization(name="norm")(joined)
        roots = keras.layers.Lambda(lambda x: tf.sqrt(tf.maximum(x, 0.0)), name="roots", output_shape=(10,))(norm)
        model = keras.Model([words, bag], keras.layers.Dense(1, name="top")(roots))
        model.compile(optimizer, "mse")
        return model
"""


def test_tables_that_grow_and_tables_larger_than_memory(one_worker, monkeypatch, tmp_path, model_file, capsys):
    monkeypatch.setattr(one_worker, "on_nan", "stop")
    file = model_file(GROWING)
    names = {}
    exec(textwrap.dedent(GROWING), names)
    words = np.array([["a", "b"], ["b", "c"], ["d", "a"], ["e", "f"]] * 4)
    bags = np.array([[7, 2, 0], [1, 5, 1], [3, 0, 3], [2, 9, 8]] * 4)
    with one_worker.scope():
        # As large as the machine lets it be in training; the replay builds the one of the file, of 800 GB.
        model = names["build"](keras.optimizers.SGD(0.01), rows=1000)
    data = tf.data.Dataset.from_tensor_slices(
        (([*map(tf.constant, (words, bags))][0], bags), np.ones((16, 1), "float32"))
    )
    data = data.batch(4).map(lambda x, y: ((x[0], x[1]), y))
    with pytest.raises(NotFiniteError):
        model.fit(data, verbose=0, callbacks=[FirstNaN(tmp_path / "nan")])
    found = index_of(tmp_path / "nan")
    # The root of 0 has an infinite gradient, and 0 times infinity is NaN: no output is bad.
    assert found["kind"] in ("gradient", "row_gradient")
    assert set(found["row_ids"]) == {"words_table", "bag_table", "fixed_table"}
    assert main(["replay", file, str(tmp_path / "nan")]) == 0
    printed = capsys.readouterr().out
    assert "First operation that is NaN or infinite: SqrtGrad, in the backward pass, outside of layers." in printed
    assert "are the same ones as in the training" in printed


JOINED = """
    import keras

    def build(optimizer="adagrad"):
        ids, numbers = keras.Input((3,), dtype="int64", name="ids"), keras.Input((4,), name="numbers")
        rows = keras.layers.Flatten(name="flat")(keras.layers.Embedding(60, 4, name="items")(ids))
        joined = keras.layers.Concatenate(name="joined")([rows, numbers])
        hidden = keras.layers.Dense(6, "relu", name="hidden")(joined)
        model = keras.Model({"ids": ids, "numbers": numbers}, keras.layers.Dense(1, name="top")(hidden))
        model.compile(optimizer, "mse")
        return model
"""


@pytest.mark.parametrize("optimizer", ["adagrad", "rmsprop", "adadelta"])
def test_a_replay_ends_before_the_update_and_is_compiled_as_the_training(tmp_path, model_file, capsys, optimizer):
    file, names = model_file(JOINED.replace("adagrad", optimizer)), {}
    exec(textwrap.dedent(JOINED), names)
    x, y = inputs()
    x["numbers"][3 * BATCH + 1, 2] = np.nan
    model = names["build"](optimizer)
    try:
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[FirstNaN(tmp_path / "nan")])
    except tf.errors.InvalidArgumentError as error:
        assert "is not in [0" in str(error)
        # The gradient of the rows is NaN then, and the update of Keras fails before a step has a result.
        pytest.skip("on this CPU a product that is one operation with a ReLU keeps NaN, and Keras's update fails")
    saved = read_saved(tmp_path / "nan")
    # The product and the activation of `hidden` are one operation in a graph, in which NaN becomes 0.
    assert saved.bad == [("joined", "activation", "output"), ("hidden", "gradient", "kernel")]
    # The update of these optimizers raises an error for repeated ids and a gradient that is NaN.
    assert main(["replay", file, str(tmp_path / "nan")]) == 0
    printed = capsys.readouterr().out
    assert "First operation that is NaN or infinite: ConcatV2, in the forward pass of layer 'joined'." in printed
    assert "First value that is NaN or infinite: activation output of layer 'joined'." in printed
    assert "Rows of layer" not in printed and "are the same ones as in the training" in printed


class TwoUpdates(keras.Model):
    """A step that updates twice: the second forward pass reads what the first update has written."""

    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(1, name="first"), keras.layers.Dense(1, name="second")

    def call(self, x):
        return self.second(self.first(x))

    def train_step(self, data):
        x, y = data
        for layer in (self.first, self.second):
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x)) / (tf.reduce_mean(x) + float(layer is self.first))
            variables = layer.trainable_variables
            self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


@pytest.mark.parametrize("is_eager", [False, True])
def test_the_second_update_of_a_step(tmp_path, is_eager):
    def build():
        keras.utils.set_random_seed(3)
        model = TwoUpdates()
        optimizer = keras.optimizers.SGD(0.1)
        model.compile(optimizer, "mse", run_eagerly=is_eager)
        model(np.zeros((1, 4), "float32"))
        # Each update has some of the variables.
        optimizer.build(model.trainable_variables)
        return model

    # The second loss is divided by the mean of the batch, which is 0 in its second step.
    x = np.stack([np.ones(4), np.zeros(4)]).astype("float32")
    build().fit(x, x[:, :1] + 1, batch_size=1, shuffle=False, verbose=0, callbacks=[FirstNaN(tmp_path)])
    saved = read_saved(tmp_path)
    assert saved.step == 2 and saved.bad
    again = replay(build, saved)
    assert again.is_same and again.operation is not None


def test_another_model_is_named(tmp_path, model_file, capsys):
    trained(None, [FirstNaN(tmp_path / "nan")], data=bad_data(0))
    other = model_file(
        """
        import keras

        def build():
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="top")])
            model.compile("sgd", "mse")
            return model

        def narrow():
            items = keras.layers.Embedding(60, 2, name="items")
            model = keras.Sequential([keras.Input((3,)), items, keras.layers.Dense(2, name="top")])
            model.compile("sgd", "mse")
            return model

        def uncompiled():
            return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        """
    )
    assert main(["replay", other, str(tmp_path / "nan")]) == 1
    assert "the model must be the one that was trained. Received: none for variable" in capsys.readouterr().err
    assert main(["replay", f"{other}:narrow", str(tmp_path / "nan")]) == 1
    assert "Received: output_dim=2 for layer 'items', whose saved rows have 4 elements" in capsys.readouterr().err
    assert main(["replay", f"{other}:uncompiled", str(tmp_path / "nan")]) == 1
    assert "must return a compiled keras.Model. Received: Sequential, which is not" in capsys.readouterr().err
    assert main(["replay", "nosuch.py", str(tmp_path / "nan")]) == 1
    assert "the model must be a Python file, FILE or FILE:FUNCTION. Received: 'nosuch.py'" in capsys.readouterr().err
    assert main(["replay", other, str(tmp_path)]) == 1
    assert "must be a folder of `tfps.callbacks.FirstNaN`" in capsys.readouterr().err
