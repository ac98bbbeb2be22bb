"""Caches of the shared cluster: a test says how much its workers keep."""

import pytest

from tfps.embedding.row_cache import CacheSize
from tfps.training.asynchronous.pacing import YoungPacing


@pytest.fixture
def caching(strategy, monkeypatch):
    """Sets what workers keep, for models that are trained from then on. Young models use what is kept, too."""
    monkeypatch.setattr(YoungPacing, "row_uses", lambda pacing, done: 1_000_000)

    def set_size(rows, max_staleness, max_missed=1_000_000):
        monkeypatch.setattr(strategy, "cache_size", CacheSize(rows, max_staleness, max_missed))

    return set_size
