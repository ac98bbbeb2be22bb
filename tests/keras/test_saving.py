"""What is saved under the strategy loads there, on another number of servers, and in plain Keras; and the reverse."""

import os
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import programs
from tfps.embedding.table import Table

ROWS = 3000
ROOT = pathlib.Path(__file__).parents[2]
X = np.random.default_rng(0).integers(0, ROWS, (400, 3))
Y = (X.sum(1, keepdims=True) % 2).astype("float32")


def build(optimizer="adam"):
    layers = [
        keras.Input((3,), dtype="int64"),
        keras.layers.Embedding(ROWS, 4),
        keras.layers.Flatten(),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.1),
        keras.layers.Dense(1, activation="sigmoid"),
    ]
    model = keras.Sequential(layers)
    model.compile(optimizer=optimizer, loss="binary_crossentropy", metrics=["auc"])
    return model


@pytest.fixture(scope="module")
def trained_once(strategy):
    """A trained model, and all its values."""
    with strategy.scope():
        model = build()
    model.fit(X, Y, batch_size=40, epochs=2, verbose=0)
    return model, [variable.numpy() for variable in [*model.variables, *model.optimizer.variables]]


@pytest.fixture
def trained(trained_once):
    """The trained model, as it was before other tests."""
    model, values = trained_once
    for variable, value in zip([*model.variables, *model.optimizer.variables], values, strict=True):
        variable.assign(value)
    return model


def same_state(a, b):
    for one, other in zip([*a.weights, *a.optimizer.variables], [*b.weights, *b.optimizer.variables], strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)


def test_tables_are_split_and_dense_variables_are_not(strategy, trained):
    tables = [v._value for v in [*trained.variables, *trained.optimizer.variables] if isinstance(v._value, Table)]
    assert len(tables) == 3 and all(table.servers == (0, 1) or table.servers == (1, 0) for table in tables)
    assert [sum(store.rows for store in t.stores) for t in tables] == [ROWS] * 3


def test_keras_file_into_the_strategy_and_on_with_training(strategy, trained, tmp_path):
    trained.save(tmp_path / "m.keras")
    with strategy.scope():
        loaded = keras.models.load_model(tmp_path / "m.keras")
    same_state(trained, loaded)
    np.testing.assert_allclose(trained.predict(X, verbose=0), loaded.predict(X, verbose=0), rtol=1e-6)
    loaded.fit(X, Y, batch_size=40, epochs=1, verbose=0)
    assert int(loaded.optimizer.iterations) == 30


LOAD = """
import sys, keras, numpy as np
kind, folder = sys.argv[1:]
if kind != "plain":
    import tfps
    strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=3, num_workers=1), dense_tables_bytes=0)
    with strategy.scope():
        model = keras.models.load_model(folder + "/m.keras")
else:
    model = keras.models.load_model(folder + "/m.keras")
np.save(folder + "/predicted.npy", model.predict(np.load(folder + "/x.npy"), verbose=0))
np.savez(folder + "/state.npz", *[v.numpy() for v in [*model.weights, *model.optimizer.variables]])
model.fit(np.load(folder + "/x.npy"), np.load(folder + "/y.npy"), batch_size=40, verbose=0)
assert int(model.optimizer.iterations) == 30
model.save_weights(folder + "/back.weights.h5")
"""


@pytest.mark.parametrize("kind", ["plain", "three servers"])
def test_keras_file_elsewhere_and_back(strategy, trained, tmp_path, kind):
    trained.save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"} | {"PYTHONPATH": str(ROOT)}
    programs.run(["-c", LOAD, kind, str(tmp_path)], env=environment, check=True, timeout=600)
    np.testing.assert_allclose(np.load(tmp_path / "predicted.npy"), trained.predict(X, verbose=0), rtol=1e-5)
    state = np.load(tmp_path / "state.npz")
    for variable, name in zip([*trained.weights, *trained.optimizer.variables], state.files, strict=True):
        np.testing.assert_array_equal(variable.numpy(), state[name], err_msg=variable.path)
    trained.load_weights(tmp_path / "back.weights.h5")
    assert int(trained.optimizer.iterations) == 30


def test_checkpoint_and_backup_callbacks(strategy, tmp_path):
    class Fails(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("stop here")

    def fit(epochs, *extra):
        with strategy.scope():
            model = build()
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        best = keras.callbacks.ModelCheckpoint(str(tmp_path / "best.keras"), monitor="loss", save_best_only=True)
        board = keras.callbacks.TensorBoard(str(tmp_path / "board"), histogram_freq=1)
        model.fit(X, Y, batch_size=40, epochs=epochs, verbose=0, callbacks=[backup, best, board, *extra])
        return model

    with pytest.raises(RuntimeError, match="stop here"):
        fit(5, Fails())
    model = fit(5)
    assert int(model.optimizer.iterations) == 50  # two epochs before, three after
    assert len(model.fit(X, Y, batch_size=40, epochs=2, verbose=0).history["loss"]) == 2
    assert (tmp_path / "best.keras").exists() and list((tmp_path / "board" / "train").iterdir())


def test_export_is_served_by_plain_tensorflow(trained, tmp_path):
    expected = trained.predict(X, verbose=0)
    trained.export(tmp_path / "served", verbose=False)
    trained.fit(X, Y, batch_size=40, verbose=0)  # the model goes on with its servers
    code = (
        "import sys, numpy as np, tensorflow as tf; served = tf.saved_model.load(sys.argv[1]);"
        "np.save(sys.argv[3], served.serve(np.load(sys.argv[2])).numpy())"
    )
    np.save(tmp_path / "x.npy", X)
    arguments = [str(tmp_path / name) for name in ("served", "x.npy", "y.npy")]
    programs.run(["-c", code, *arguments], env=os.environ, check=True, timeout=600)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-5)


def test_set_and_get_weights(trained):
    weights = [np.random.default_rng(i).random(w.shape).astype("float32") for i, w in enumerate(trained.get_weights())]
    trained.set_weights(weights)
    for got, given in zip(trained.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(got, given)


def test_tensorflow_checkpoint(strategy, trained, tmp_path):
    checkpoint = tf.train.Checkpoint(model=trained)
    path = checkpoint.write(str(tmp_path / "ckpt"))
    before = trained.get_weights()
    trained.set_weights([np.zeros_like(w) for w in before])
    checkpoint.read(path)
    for got, given in zip(trained.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, given)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_a_quantized_table(strategy, trained, tmp_path):
    trained.save(tmp_path / "m.keras")
    plain = keras.models.load_model(tmp_path / "m.keras")
    for model in (trained, plain):
        model.quantize("int8")
    # One variable of integers, which is not trained. It lies on one server.
    assert trained.layers[0].embeddings.dtype == "int8" and not isinstance(trained.layers[0].embeddings._value, Table)
    expected = plain.predict(X, verbose=0)
    np.testing.assert_allclose(trained.predict(X, verbose=0), expected, rtol=1e-5, atol=1e-6)
    trained.save(tmp_path / "q.keras")
    with strategy.scope():
        loaded = keras.models.load_model(tmp_path / "q.keras")
    np.testing.assert_allclose(loaded.predict(X, verbose=0), expected, rtol=1e-5, atol=1e-6)
