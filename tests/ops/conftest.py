"""What the tests of the ops share: both ways to run an op, and seeded inputs."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

from tfps.ops import library


@pytest.fixture(params=["library", "graph"])
def way(request, monkeypatch):
    """Runs a test with the C++ ops and once more with TensorFlow's own."""
    if request.param == "graph":
        monkeypatch.setenv("TFPS_DISABLE_OPS", "1")
    else:
        monkeypatch.delenv("TFPS_DISABLE_OPS", raising=False)
        assert library.available(), "the C++ ops are not built: run `make test`"
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20)
