"""Models that count the examples they see, shared by all tests of inputs: each is traced once."""

import functools

import pytest

from tests.inputs.counting import Counter


@pytest.fixture(scope="session")
def counters(strategy):
    """Returns the model of a mode."""
    return functools.cache(functools.partial(Counter, strategy))


@pytest.fixture(scope="session")
def counter(counters):
    """The model of asynchronous mode."""
    return counters("async")
