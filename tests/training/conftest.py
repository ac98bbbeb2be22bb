"""Fixtures of the tests of training."""

import pytest

from tfps.training import traced_closures


@pytest.fixture(autouse=True)
def long_turns(monkeypatch):
    """Turns are as long as they may be from the first step on: models of tests are trained for a few steps only."""
    monkeypatch.setattr(traced_closures, "SHORT_STEPS", 0)
