"""split_records: the records that TensorFlow wrote, cut anywhere, and with a byte changed."""

import numpy as np
import pytest
import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops import library
from tfps.ops.split_records import split_records


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The bytes of a file, and its records."""
    draw = np.random.default_rng(0)
    records = [draw.bytes(int(size)) for size in (0, 1, 40, 9, 0, 300)]
    path = tmp_path_factory.mktemp("records") / "a"
    with tf.io.TFRecordWriter(str(path)) as out:
        for record in records:
            out.write(record)
    return path.read_bytes(), records


def run(data):
    valid, records, end = split_records(tf.constant(data))
    return bool(valid), records.numpy().tolist(), int(end)


def test_all_records_of_a_file(file):
    data, records = file
    assert run(data) == (True, records, len(data))
    assert run(b"") == (True, [], 0)


def test_a_record_that_is_cut_is_left(file):
    data, records = file
    assert run(data[:-1]) == (True, records[:-1], len(data) - 316)
    assert run(data[:11]) == (True, [], 0)


def test_what_is_behind_a_wrong_checksum_is_left(file):
    data, records = file
    # The first record takes 16 bytes, the second 17, and the third begins.
    assert run(data[:33] + b"?" + data[34:]) == (False, records[:2], 33)


def test_wrong_arguments(file, monkeypatch):
    with pytest.raises(tf.errors.InvalidArgumentError, match="`bytes` must be a scalar"):
        split_records(tf.constant([file[0]]))
    with pytest.raises(ValueError, match="rank"):
        tf.function(split_records).get_concrete_function(tf.TensorSpec([2], tf.string))
    monkeypatch.setattr(library, "load", lambda: None)
    with pytest.raises(ConfigError, match="`split_records` must have the C.. ops"):
        split_records(tf.constant(file[0]))
