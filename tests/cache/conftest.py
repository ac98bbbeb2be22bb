"""Caches of the shared cluster: a test says how much its workers keep."""

import pytest

from tfps.embedding.row_cache import CacheSize


@pytest.fixture
def caching(strategy, monkeypatch):
    """Sets what workers keep, for models that are trained from then on."""

    def set_size(rows, max_staleness, max_missed=1_000_000):
        monkeypatch.setattr(strategy, "cache_size", CacheSize(rows, max_staleness, max_missed))

    return set_size
