"""Pushes that read a variable and then assign it: of two at a time on one server, none is lost."""

import concurrent.futures

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfps.training.affine import Extreme
from tfps.training.exchange import _add
from tfps.training.lanes import pack

PUSHES, THREADS, SIZE = 60, 4, 400_000


@pytest.mark.parametrize("kind", ["constraint", "greatest"])
def test_pushes_at_the_same_time_all_count(strategy, kind):
    with strategy.scope():
        constraint = keras.constraints.NonNeg() if kind == "constraint" else None
        made = keras.layers.Layer().add_weight((SIZE,), "zeros", "float32", constraint=constraint)
    variable = made._value
    extremes = {variable.key: Extreme.GREATEST} if kind == "greatest" else {}

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([SIZE])])
    def push(delta):
        with tf.device(variable.device):
            _add([variable], {}, extremes, pack([delta]))
        return tf.constant(0)

    def send(thread):
        # Each thread has elements of its own, and all have the first one.
        delta = np.zeros(SIZE, "float32")
        for number in range(PUSHES):
            delta[:] = 0
            delta[thread + 1] = number + 1 if kind == "greatest" else 1
            push(tf.constant(delta))

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(send, range(THREADS)))
    expected = np.zeros(SIZE)
    expected[1 : THREADS + 1] = PUSHES
    np.testing.assert_array_equal(variable.numpy(), expected)
