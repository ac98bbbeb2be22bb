"""The scalar that stands for a table on gradient tapes."""

import keras
import pytest
import tensorflow as tf

WORKER = "/job:worker/replica:0/task:0/device:CPU:0"


@pytest.mark.parametrize("traces", [False, True])
def test_it_is_on_the_chief_whoever_needs_it_first(strategy, traces):
    """A graph that captured it from a worker could not run on another one."""
    with strategy.scope():
        layer = keras.layers.Embedding(10, 4)
        layer.build()
    sources = []
    with tf.device(WORKER):
        read = lambda: sources.append(layer.embeddings._value.handle)  # noqa: E731
        tf.function(read).get_concrete_function() if traces else read()
        source = layer.embeddings._value.handle
    assert "/job:worker" not in source.device
    assert sources[0] is source
