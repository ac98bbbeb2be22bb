"""One device: row-wise updates as under parameter servers, and Keras's own where tables are small."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.replicas.small_model import BATCH, ROWS, build, clicks, difference, log_difference, state_of
from tfps.replicas import multi_worker


def fit(model, **options):
    x, y = clicks()
    return model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0, **options).history


def on_one_device(optimizer, **settings):
    with tfps.OneDeviceStrategy("CPU:0", **settings).scope():
        model = build(optimizer)
    return model, fit(model)


def test_small_tables_are_those_of_keras():
    plain = build(keras.optimizers.Adam(0.01, epsilon=0.1))
    history = fit(plain)
    model, logs = on_one_device(keras.optimizers.Adam(0.01, epsilon=0.1))
    assert difference(state_of(plain), state_of(model)) < 2e-6
    assert log_difference(history, logs) < 2e-6


def test_repeated_ids_each_by_itself_are_those_of_keras():
    # Adagrad moves only touched rows, so row-wise updates give what Keras gives.
    plain = build(keras.optimizers.Adagrad(0.1))
    fit(plain)
    model, _ = on_one_device(keras.optimizers.Adagrad(0.1), dense_tables_bytes=0, repeated_ids="each")
    assert difference(state_of(plain), state_of(model)) < 2e-6


@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
def test_sync_on_servers_gives_the_same_weights(one_worker, optimizer):
    make = {
        "adagrad": lambda: keras.optimizers.Adagrad(0.1),
        "adam": lambda: keras.optimizers.Adam(0.01, epsilon=0.1),
    }[optimizer]
    with one_worker.scope():
        served = build(tfps.optimizers.Sync(make()))
    fit(served)
    model, _ = on_one_device(make(), dense_tables_bytes=0)
    assert difference(served.get_weights(), model.get_weights()) < 2e-6


def test_rows_that_no_batch_looked_up_do_not_move():
    model, _ = on_one_device(keras.optimizers.Adam(0.01), dense_tables_bytes=0)
    x, y = clicks()
    first = model.get_layer("table").embeddings.numpy()
    # Momentum alone would move these rows under Keras.
    model.fit([np.zeros_like(x[0]), x[1]], y, verbose=0)
    moved = np.abs(model.get_layer("table").embeddings.numpy() - first).max(axis=1) > 0
    assert moved.nonzero()[0].tolist() == [0]


def test_without_the_library(monkeypatch):
    expected, _ = on_one_device(keras.optimizers.Adam(0.01, epsilon=0.1), dense_tables_bytes=0)
    monkeypatch.setenv("TFPS_DISABLE_OPS", "1")
    model, _ = on_one_device(keras.optimizers.Adam(0.01, epsilon=0.1), dense_tables_bytes=0)
    assert difference(state_of(expected), state_of(model)) < 2e-6


def test_negative_and_ragged_ids():
    with tfps.OneDeviceStrategy("CPU:0", dense_tables_bytes=0).scope():
        layer = keras.layers.Embedding(ROWS, 4)
        layer.build()
    rows = layer.embeddings.numpy()
    np.testing.assert_array_equal(layer(np.array([-1, 2])), rows[[-1, 2]])
    np.testing.assert_array_equal(layer(tf.ragged.constant([[1], [2, 3]])).flat_values, rows[[1, 2, 3]])


def test_predictions_of_a_batch_follow_the_model():
    with tfps.OneDeviceStrategy("CPU:0").scope():
        model = build("sgd")
    x = [one[:4] for one in clicks()[0]]
    before = model.predict_on_batch(x)
    # Keras makes other variables.
    model.quantize("int8")
    after = model.predict_on_batch(x)
    assert difference([before], [after]) > 0
    assert difference([model.predict(x, verbose=0)], [after]) == 0


def test_saved_here_and_loaded_elsewhere(one_worker, tmp_path):
    model, _ = on_one_device(keras.optimizers.Adam(0.01), dense_tables_bytes=0)
    model.save(tmp_path / "one.keras")
    with one_worker.scope():
        served = keras.models.load_model(tmp_path / "one.keras")
    assert difference(state_of(model), state_of(served)) == 0
    fit(served)
    served.save(tmp_path / "served.keras")
    with tfps.OneDeviceStrategy("CPU:0", dense_tables_bytes=0).scope():
        back = keras.models.load_model(tmp_path / "served.keras")
    assert difference(state_of(served), state_of(back)) == 0
    plain = keras.models.load_model(tmp_path / "served.keras")
    assert difference(state_of(plain), state_of(back)) == 0
    fit(back)
    assert int(back.optimizer.iterations) == int(served.optimizer.iterations) + 12


def test_optimizers_with_a_mode_are_refused():
    with tfps.OneDeviceStrategy("CPU:0").scope(), pytest.raises(tfps.errors.UnsupportedError, match="`optimizer`"):
        build(tfps.optimizers.Geo("adagrad"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "GPU:7"}, "`device` must be devices of this process. Received: 'GPU:7'"),
        ({"device": ""}, "`device`"),
        ({"repeated_ids": "some"}, "`repeated_ids`"),
        ({"dense_tables_bytes": -1}, "`dense_tables_bytes`"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(tfps.errors.ConfigError) as error:
        tfps.OneDeviceStrategy(**arguments)
    assert message in str(error.value)


def test_a_misspelt_variable_is_refused(monkeypatch):
    monkeypatch.setenv("TFPS_DISABLE_OP", "1")
    for make in (tfps.OneDeviceStrategy, tfps.ParameterServerStrategy):
        with pytest.raises(tfps.errors.ConfigError, match="TFPS_DISABLE_OP='1'"):
            make()


def test_devices_of_mirrored_are_checked():
    for devices in ([], "CPU:0", ["CPU:0", "CPU:0"], ["CPU:99"], [3]):
        with pytest.raises(tfps.errors.ConfigError, match="`devices`"):
            tfps.MirroredStrategy(devices)


@pytest.mark.parametrize(
    ("cluster", "task", "message"),
    [
        ({"worker": ["a:1"], "ps": ["a:2"]}, ("worker", 0), "must have no `ps`"),
        ({"worker": ["a:1"]}, ("worker", 1), "`task.index` must be 0"),
        ({"workers": ["a:1"]}, ("worker", 0), "'workers'"),
        ({"worker": ["a:1"]}, ("evaluator", 0), "`task.type`"),
    ],
)
def test_clusters_of_other_kinds_are_refused(monkeypatch, cluster, task, message):
    text = json.dumps({"cluster": cluster, "task": {"type": task[0], "index": task[1]}})
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(tfps.errors.ConfigError) as error:
        multi_worker.check_cluster(None)
    assert message in str(error.value)
