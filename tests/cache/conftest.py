"""Caches of the shared cluster: a test says how much its workers keep."""

import pytest

from tfps.embedding.row_cache import CacheSize


@pytest.fixture
def caching(strategy, monkeypatch):
    """Sets what workers keep, for models that are trained from then on."""

    def set_size(rows, max_staleness):
        monkeypatch.setattr(strategy, "cache_size", CacheSize(rows, max_staleness))

    return set_size
