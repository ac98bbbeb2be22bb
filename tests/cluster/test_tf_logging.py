"""TensorFlow's C++ log after a death, in a program of its own: the level holds for the whole process."""

import os
import subprocess
import sys

import pytest
import tensorflow as tf

PROGRAM = """
import sys
from tfps.cluster import tf_logging
tf_logging.quieten()
assert "tensorflow" not in sys.modules
import tensorflow as tf

def fail():
    # A failed op is logged as a warning by the C++ that runs it.
    print("begin", file=sys.stderr, flush=True)
    try:
        tf.raw_ops.GatherV2(params=[1.0], indices=[5], axis=0)
    except tf.errors.InvalidArgumentError:
        pass

fail()
tf_logging.quieten()
assert tf_logging._set_min_log_level(3)
fail()
"""


@pytest.mark.skipif(
    tuple(map(int, tf.__version__.split(".")[:2])) < (2, 21),
    reason="TensorFlow before 2.21 writes this line with its own logger, whose level cannot be changed",
)
def test_nothing_but_fatal_errors_is_logged_after_it():
    # At a level that logs warnings, whatever the level of the tests is.
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "1"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True, env=environment)
    _, before, after = done.stderr.split("begin\n")
    assert "Local rendezvous is aborting" in before and not after
