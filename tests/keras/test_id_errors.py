"""An id out of range, whatever asks for it: an `IdRangeError` with table, layer, id, rows and place, in few lines."""

import os
import subprocess
import sys
import traceback

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.errors import IdRangeError

ROWS, BATCH, BAD = 50, 8, (3, 2)
"""Example 3, position 2 of a batch has an id out of range."""


def ids_of(bad=ROWS, batches=1):
    ids = np.random.default_rng(1).integers(0, ROWS, (batches, BATCH, 4))
    ids[(-1, *BAD)] = bad
    return ids.reshape(-1, 4)


def model_of(strategy, optimizer=None, layer=None):
    with strategy.scope():
        table = layer or keras.layers.Embedding(ROWS, 4, name="item")
        model = keras.Sequential(
            [keras.Input((4,), dtype="int64"), table, keras.layers.Flatten(), keras.layers.Dense(1)]
        )
        model.compile(optimizer or keras.optimizers.SGD(0.1), loss="mse")
    return model


USES = {
    "fit": lambda model, ids: model.fit(ids, np.zeros(len(ids)), batch_size=BATCH, shuffle=False, verbose=0),
    "evaluate": lambda model, ids: model.evaluate(ids, np.zeros(len(ids)), batch_size=BATCH, verbose=0),
    "predict": lambda model, ids: model.predict(ids, batch_size=BATCH, verbose=0),
    "predict_on_batch": lambda model, ids: model.predict_on_batch(ids),
    "train_on_batch": lambda model, ids: model.train_on_batch(ids, np.zeros(len(ids))),
    "test_on_batch": lambda model, ids: model.test_on_batch(ids, np.zeros(len(ids))),
    "call": lambda model, ids: model(ids),
    "layer": lambda model, ids: model.layers[0](ids),
    "nn": lambda model, ids: tfps.nn.embedding_lookup(model.layers[0].embeddings, ids),
}


def check(error, place=BAD, bad=ROWS):
    """Checks every part of the error, and that Python prints it in few lines, the useful one last."""
    assert type(error) is IdRangeError
    assert error.layer.endswith("item") and error.table == f"{error.layer}/embeddings"
    assert (error.id, error.rows, error.place) == (bad, ROWS, place)
    lines = "".join(traceback.format_exception(error)).splitlines()
    assert len(lines) <= 25, "\n".join(lines)
    assert f"layer '{error.layer}'" in lines[-1] and f"below {ROWS}. Received: {bad}, at ids" in lines[-1]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("disabled", ["0", "1"])
def test_every_use_of_a_model_says_which_id_of_which_layer_is_out_of_range(strategy, monkeypatch, use, disabled):
    monkeypatch.setenv("TFPS_DISABLE_OPS", disabled)
    model = model_of(strategy)
    with pytest.raises(IdRangeError) as caught:
        USES[use](model, ids_of())
    check(caught.value)
    assert "example 3, position 2" in str(caught.value)


def test_what_tensorflow_says_is_in_a_file_that_the_message_names(strategy):
    with pytest.raises(IdRangeError) as caught:
        USES["fit"](model_of(strategy), ids_of())
    path = str(caught.value).rpartition(" ")[2]
    with open(path) as log:
        text = log.read()
    assert "InvalidArgumentError" in text and f"Received: {ROWS} at position 14 of ids of shape [8,4]" in text


def test_a_negative_id_is_said_as_the_user_gave_it(strategy):
    model = model_of(strategy)
    USES["predict"](model, ids_of(bad=-ROWS))  # counted from the end
    with pytest.raises(IdRangeError, match=f"Received: -1, .*may have been given {-ROWS - 1}"):
        USES["predict"](model, ids_of(bad=-ROWS - 1))


def test_the_model_trains_after_it(strategy):
    model = model_of(strategy)
    with pytest.raises(IdRangeError):
        USES["fit"](model, ids_of(batches=6))
    assert np.isfinite(USES["fit"](model, ids_of(bad=0, batches=6)).history["loss"]).all()


@pytest.mark.parametrize("mode", [tfps.optimizers.Geo, tfps.optimizers.Sync])
def test_the_modes(strategy, mode):
    model = model_of(strategy, mode(keras.optimizers.SGD(0.1)))
    with pytest.raises(IdRangeError) as caught:
        USES["fit"](model, ids_of(batches=3))
    # The ids of a window are those of its batches, one after the other, so its examples are counted from its start.
    example, position = caught.value.place
    check(caught.value, (example, position))
    assert (example % BATCH, position) == BAD


def test_the_second_lookup_of_a_table_is_named(strategy):
    with strategy.scope():
        left, right = keras.Input((4,), dtype="int64"), keras.Input((2,), dtype="int64")
        table = keras.layers.Embedding(ROWS, 4, name="item")
        joined = keras.layers.Concatenate(axis=1)([table(left), table(right)])
        model = keras.Model([left, right], keras.layers.Dense(1)(keras.layers.Flatten()(joined)))
        model.compile("sgd", "mse")
    ids = [np.zeros((BATCH, 4), int), np.zeros((BATCH, 2), int)]
    ids[1][5, 1] = ROWS
    with pytest.raises(IdRangeError, match=r"ids\[5, 1\] of ids of shape \[8, 2\].*in lookup 2 of 2") as caught:
        model.fit(ids, np.zeros(BATCH), batch_size=BATCH, shuffle=False, verbose=0)
    check(caught.value, (5, 1))


def test_bags(strategy):
    model = model_of(strategy, layer=tfps.layers.EmbeddingBag(ROWS, 4, name="item"))
    with pytest.raises(IdRangeError) as caught:
        model.predict(ids_of(), verbose=0)
    check(caught.value, caught.value.place)


@pytest.mark.parametrize("end", ["join", "fetch", "done", "schedule"])
def test_hand_written_loops(strategy, end, caplog):
    model = model_of(strategy)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)

    @tf.function
    def step(ids):
        return strategy.run(lambda ids: tf.reduce_sum(model(ids)), (ids,))

    assert np.isfinite(coordinator.fetch(coordinator.schedule(step, (tf.constant(ids_of(bad=0)),))))
    with pytest.raises(IdRangeError) as caught:
        result = coordinator.schedule(step, (tf.constant(ids_of()),))
        if end == "fetch":
            coordinator.fetch(result)
        while end == "done" and not coordinator.done():
            pass
        while end == "schedule":
            coordinator.schedule(step, (tf.constant(ids_of()),))
        coordinator.join()
    check(caught.value)
    if end == "fetch":
        with pytest.raises(IdRangeError):
            coordinator.join()  # TensorFlow tells it once more, and has then forgotten it
    messages = [record.getMessage() for record in caplog.records if record.name == "tensorflow"]
    failures = [message for message in messages if "out of range" in message or "must be at least 0" in message]
    assert failures and all("\n" not in message for message in failures)
    assert all(message.startswith("A scheduled function failed: every id that layer") for message in failures)


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("side", ["centers", "contexts"])
def test_skip_gram(strategy, window, side):
    optimizer = keras.optimizers.SGD(0.1)
    with strategy.scope():
        model = tfps.models.SkipGram(ROWS, 4, negatives=2, seed=1)
        model.compile(tfps.optimizers.Geo(optimizer) if window else optimizer)
    pairs = {"centers": np.arange(BATCH), "contexts": np.arange(BATCH)}
    pairs[side][5] = ROWS
    with pytest.raises(IdRangeError, match=rf"{side}.*below {ROWS}\. Received: {ROWS}, at ids\[5\]"):
        model.fit(pairs["centers"], pairs["contexts"], batch_size=BATCH, shuffle=False, verbose=0)


PROGRAM = """
import sys, keras, numpy as np, tfps
strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(1, 1), dense_tables_bytes=0)
with strategy.scope():
    table, layers = keras.layers.Embedding(50, 4, name="item"), keras.layers
    model = keras.Sequential([table, layers.Flatten(), layers.Dense(1)])
    model.compile("sgd", "mse")
ids = np.zeros((8, 4), int)
ids[3, 2] = 50
print("ready", file=sys.stderr, flush=True)
model.fit(ids, np.zeros(8), verbose=0)
"""


def test_a_program_that_does_not_catch_it_prints_at_most_25_lines(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | {
        "TF_CPP_MIN_LOG_LEVEL": "2"
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "ready\n" in done.stderr, done.stderr
    lines = done.stderr.partition("ready\n")[2].splitlines()
    assert len(lines) <= 25, done.stderr
    assert lines[-1].startswith("tfps.errors.IdRangeError: every id that layer 'sequential/item' looks up")
