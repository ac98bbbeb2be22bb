"""Functions of tfps that a graph calls on whatever task runs it."""

import json

import pytest
import tensorflow as tf

from tests.streaming.counting import write
from tfps.cluster import faults, worker_functions
from tfps.cluster.worker_functions import call
from tfps.errors import SourceError
from tfps.inputs.shipping import make_shippable_graph

FETCHING = "tfps.streaming.fetching"


def fetch(url):
    return call(FETCHING, "fetch_file", [url, "stream", "window", json.dumps({})], [tf.string])[0]


def test_a_graph_calls_a_function_by_its_name(tmp_path):
    write(tmp_path / "a.csv", [7])
    path = tf.function(fetch)(f"file://{tmp_path}/a.csv")
    assert open(path.numpy()).read() == "7\n"  # noqa: SIM115


def test_errors_of_tfps_keep_their_message_and_their_class(tmp_path):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        fetch(f"file://{tmp_path}/missing.csv")
    ours = faults.translate(caught.value, None)
    assert type(ours) is SourceError
    assert str(ours).startswith(f"the file 'file://{tmp_path}/missing.csv' of the stream cannot be read: ")
    # Nothing of what TensorFlow puts around it.
    assert "Traceback" not in str(ours).partition("TensorFlow's full message")[0]


def test_other_errors_are_left_alone():
    assert worker_functions.find_error("tfps source error: cut") is None
    with pytest.raises(tf.errors.OpError):
        call(FETCHING, "no_such_function", ["x"], [tf.string])


def test_datasets_that_call_them_are_shipped_and_other_python_is_not(caplog):
    paths = tf.data.Dataset.from_tensor_slices(["memory://a", "memory://b"])
    calling = paths.map(fetch).batch(1)
    assert make_shippable_graph(calling, 2) is not None
    caplog.set_level("INFO", "tfps")
    own = calling.map(lambda x: tf.numpy_function(lambda value: value, [x], tf.string))
    assert make_shippable_graph(own, 2) is None
    assert "it calls Python (PyFunc" in caplog.text


def test_a_graph_names_functions_of_tfps_alone():
    with pytest.raises(Exception, match="functions of tfps alone. Received: 'os'"):
        worker_functions.call("os", "system", [tf.constant("true")], [tf.int64])
