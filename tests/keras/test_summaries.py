"""`tf.summary` in a step: the user's tags, and the numbers of the steps as one process counts them."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps

BATCHES = 22


class Writes(keras.Sequential):
    def train_step(self, data):
        tf.summary.scalar("seen", data[1][0, 0], step=self.optimizer.iterations)
        logs = super().train_step(data)
        with tf.name_scope("mine"):
            tf.summary.scalar("after", data[1][0, 0], step=self.optimizer.iterations)
        return logs


def written(directory):
    """(tag, step, value) of each summary in a directory."""
    files = [str(file) for file in sorted(directory.iterdir())]
    found = []
    for record in tf.data.TFRecordDataset(files):
        event = tf.compat.v1.Event.FromString(record.numpy())
        found += [(v.tag, event.step, float(tf.make_ndarray(v.tensor))) for v in event.summary.value]
    return sorted(found)


@pytest.mark.parametrize(
    ("mode", "fed", "devices"),
    [
        *(pytest.param(mode, fed, 0, id=f"{mode}-{fed}") for mode in ("async", "geo") for fed in ("", "fed")),
        pytest.param("async", "", 2, id="devices"),
    ],
)
def test_tags_and_steps_are_those_of_one_process(strategy, tmp_path, monkeypatch, mode, fed, devices):
    monkeypatch.setattr(strategy, "step_devices", tuple(f"/device:CPU:{number}" for number in range(devices)))
    y = np.arange(BATCHES * 2, dtype="float32").reshape(-1, 1)

    def generate():
        for i in range(BATCHES):
            yield y[2 * i : 2 * i + 2], y[2 * i : 2 * i + 2]

    data = tf.data.Dataset.from_tensor_slices((y, y)).batch(2)
    if fed:
        data = tf.data.Dataset.from_generator(generate, output_signature=(tf.TensorSpec((2, 1)),) * 2)
        # At an end that it does not know, Keras counts a step that has no batch.
        data = data.apply(tf.data.experimental.assert_cardinality(BATCHES))

    def train(strategy, directory):
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = Writes([keras.Input((1,)), keras.layers.Dense(1)])
            optimizer = keras.optimizers.SGD(0.0)
            model.compile(tfps.optimizers.Geo(optimizer) if strategy and mode == "geo" else optimizer, "mse")
        writer = tf.summary.create_file_writer(str(directory))
        with writer.as_default():
            model.fit(data, epochs=2, verbose=0)
        writer.close()
        return written(directory)

    assert train(strategy, tmp_path / "ours") == train(None, tmp_path / "theirs")
