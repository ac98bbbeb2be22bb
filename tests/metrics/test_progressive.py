"""Test, then train: the progressive metric of an epoch is that of predictions made before each step."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import log_loss

import tfps
from tests.metrics.models import clicks, dataset, make
from tfps import metrics
from tfps.errors import ConfigError

FEATURES, LABELS, _ = clicks()
BATCH, STEPS = 32, 10
ROWS = slice(0, BATCH * STEPS)
DATA = ({name: one[ROWS] for name, one in FEATURES.items()}, LABELS[ROWS])


def before_each_step(drops):
    """The predictions of each batch before it is trained, in one process."""
    model = make([], keras.optimizers.SGD(5.0), drops)
    found = []
    for features, labels in dataset(DATA):
        found.append(model.predict_on_batch(features)[:, 0])
        model.train_on_batch(features, labels)
    return np.concatenate(found)


@pytest.mark.parametrize("drops", [False, True])
def test_plain_keras(drops):
    right = log_loss(DATA[1], before_each_step(drops).astype("float64"))
    given = [metrics.Progressive(metrics.LogLoss()), metrics.LogLoss(), metrics.Progressive(metrics.GroupAUC("user"))]
    model = make(given, keras.optimizers.SGD(5.0), drops)
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(given[0])).get_config() == (
        given[0].get_config()
    )
    logs = {name: values[0] for name, values in model.fit(dataset(DATA), verbose=0).history.items()}
    assert logs["progressive_log_loss"] == pytest.approx(right, abs=1e-5)
    # With dropout the metric of Keras sees what dropout has left.
    assert (abs(logs["log_loss"] - right) > 0.01) == drops
    assert 0 < logs["progressive_group_auc"] < 1
    # An evaluation trains nothing.
    found = model.evaluate(dataset(DATA), verbose=0, return_dict=True)
    assert found["progressive_log_loss"] == found["log_loss"] < right


class Counted(keras.layers.Layer):
    """Counts its calls."""

    calls = 0

    def call(self, inputs):
        Counted.calls += 1
        return inputs


@pytest.mark.parametrize("drops", [False, True])
def test_a_second_pass_only_where_training_does_something_else(drops):
    layers = [keras.Input((1,)), Counted(), keras.layers.Dense(1, "sigmoid")]
    model = keras.Sequential([*layers, keras.layers.Dropout(0.5)] if drops else layers)
    given = [metrics.Progressive(metrics.LogLoss())]
    model.compile("sgd", "binary_crossentropy", metrics=given, run_eagerly=True)
    x, y = np.ones((4, 1)), np.ones((4, 1))
    model.train_on_batch(x, y)
    before = Counted.calls
    model.train_on_batch(x, y)
    assert Counted.calls - before == 1 + drops


def test_on_a_worker(one_worker):
    # One worker and a plain SGD, so that the steps follow one another as in one process.
    right = log_loss(DATA[1], before_each_step(True).astype("float64"))
    with one_worker.scope():
        model = make([metrics.Progressive(metrics.LogLoss())], keras.optimizers.SGD(5.0), True)
    logs = model.fit(dataset(DATA), verbose=0).history
    # The masks of dropout are other ones, which changes what is learned a little.
    assert logs["progressive_log_loss"][0] == pytest.approx(right, abs=0.05)


def test_a_stream(tmp_path):
    """Without a test of its own a window is read once, and tested all the same."""
    for number in range(2):
        (tmp_path / f"part-{number}").write_text("".join(f"{i % 7},{i % 2}\n" for i in range(64)))

    def parse(names):
        def split(lines):
            item, label = tf.io.decode_csv(lines, [0, 0])
            return item[:, None], label[:, None]

        return names.flat_map(tf.data.TextLineDataset).batch(16).map(split)

    inputs = keras.Input((1,), dtype="int32")
    hidden = keras.layers.Flatten()(keras.layers.Embedding(7, 2)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(hidden))
    model.compile("adagrad", "binary_crossentropy", metrics=[metrics.Progressive(metrics.LogLoss())])
    source = tfps.streaming.Files(str(tmp_path / "part-*"), parse, settle_s=0.0)
    logs = tfps.streaming.fit(model, source, window=1, checkpoint=tmp_path / "run", windows=2, test=False)
    assert [0.5 < one["progressive_log_loss"] < 1 for one in logs] == [True, True]
    assert "test_loss" not in logs[0]


class OwnStep(keras.Model):
    """Its step trains first, then predicts."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1, "sigmoid")

    def call(self, features):
        return self.dense(keras.ops.cast(features["item"], "float32"))

    def train_step(self, data):
        x, y = data
        return self.compute_metrics(x, y, self(x))


def test_refusals():
    model = OwnStep()
    model.compile("sgd", "binary_crossentropy", metrics=[metrics.Progressive(metrics.LogLoss())])
    with pytest.raises(ConfigError, match="no Progressive metric where a model has a `train_step`.*Received: OwnStep"):
        model.fit(dataset(DATA), verbose=0)
    with pytest.raises(ConfigError, match="`metric` must be a Keras metric. Received: 'auc'"):
        metrics.Progressive("auc")
