"""The cluster of all tests, used with its first worker alone."""

import pytest


@pytest.fixture
def one_worker(strategy):
    """A strategy whose steps follow one another as in one process, with the settings of a cluster of one worker."""
    before = strategy._num_workers, strategy._pool
    strategy._num_workers, strategy._pool = 1, None
    yield strategy
    if strategy._pool is not None:
        strategy._pool.close()
    strategy._num_workers, strategy._pool = before
