"""What a step is counted to keep, against the memory that a real step takes on the CPU."""

import os
import re

import pytest

from tests.programs import run

PROGRAM = """
import resource, sys
import keras, numpy as np
from keras import layers
from tfps.keras.choosing import find_footprint

batch = {"conv": 64, "mlp": 4096, "lstm": 256, "attention": 64}[sys.argv[1]]

def build():
    if sys.argv[1] == "conv":
        stack = [keras.Input((64, 64, 3)), layers.Conv2D(64, 3, activation="relu"), layers.BatchNormalization(),
                 layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(), layers.GlobalAveragePooling2D()]
    elif sys.argv[1] == "mlp":
        stack = [keras.Input((512,)), *[layers.Dense(2048, "gelu") for _ in range(6)]]
    elif sys.argv[1] == "lstm":
        stack = [keras.Input((100, 64)), layers.LSTM(256, return_sequences=True), layers.LSTM(256)]
    else:
        sequence = made = keras.Input((128, 256))
        for _ in range(4):
            made = layers.LayerNormalization()(made + layers.MultiHeadAttention(8, 32)(made, made))
            made = layers.LayerNormalization()(made + layers.Dense(256)(layers.Dense(1024, "relu")(made)))
        stack = [sequence, keras.Model(sequence, made), layers.GlobalAveragePooling1D()]
    model = keras.Sequential([*stack, layers.Dense(1)])
    model.compile("adam", "mse")
    return model

counted = find_footprint(build, batch).working_bytes
model = build()
x, y = np.zeros((batch, *model.input_shape[1:]), "float32"), np.zeros((batch, 1), "float32")
model.train_on_batch(x[:2], y[:2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model.train_on_batch(x, y)
print("ratio", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / counted)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["conv", "mlp", "lstm", "attention"])
def test_a_step_takes_what_was_counted(kind):
    done = run(["-c", PROGRAM, kind], env=dict(os.environ), timeout=300, check=True)
    assert 0.7 < float(re.search(r"ratio ([\d.]+)", done.stdout)[1]) < 1.5
