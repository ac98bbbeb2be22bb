"""One cluster of real processes for all tests that train: 2 parameter servers and 2 workers, started once."""

import contextlib
import gc
import os
import pathlib
import signal

import pytest

from tfps.placement.small_tables import DENSE_TABLES_BYTES

DATA = pathlib.Path(__file__).parents[2] / "shared" / "data"

# On a busy machine an import of TensorFlow alone can take a minute. The tests of these limits set their own.
os.environ.setdefault("TFPS_START_TIMEOUT_S", "300")
os.environ.setdefault("TFPS_JOIN_TIMEOUT_S", "300")

# A shell starts what it puts in the background, maybe this, with SIGINT ignored, and the programs of tests inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)


SLOW_CASES = pathlib.Path(__file__).parent / "slow_cases.txt"


def pytest_collection_modifyitems(items):
    """Marks the cases of `slow_cases.txt`; where all files were collected, an entry that names no test is an error."""
    names = [line for line in SLOW_CASES.read_text().splitlines() if line and not line.startswith("#")]
    slow, collected = set(names), {item.nodeid for item in items}
    for item in items:
        if item.nodeid in slow:
            item.add_marker(pytest.mark.slow)
    if {item.path for item in items} >= {SLOW_CASES.parents[1] / name.split("::")[0] for name in names}:
        stale = sorted(slow - collected)
        assert not stale, f"{SLOW_CASES.name} names what is no test: {stale}"


@pytest.fixture(scope="session")
def strategy():
    import tfps

    # What the imports have made stays: collections need not go over its 400,000 objects again and again.
    gc.freeze()
    # The second CPU device of a worker is for tests/training/test_devices.py; nothing else uses it.
    cluster = tfps.LocalCluster(num_ps=2, num_workers=2, worker_devices=2)
    # The tables of tests are small, and most tests are about tables. `small_tables` gives a test the default.
    strategy = tfps.ParameterServerStrategy(cluster, dense_tables_bytes=0)
    yield strategy
    strategy.close()


@pytest.fixture
def one_worker(strategy):
    """A strategy whose steps follow one another as in one process, with the settings of a cluster of one worker."""
    with limited_workers(strategy, 1):
        yield strategy


@contextlib.contextmanager
def limited_workers(strategy, count):
    """Lets a strategy use the first `count` of its workers, by a pool of their own."""
    pools = strategy.pools
    before = strategy._num_workers, pools._worker_devices, pools._workers
    strategy._num_workers, pools._worker_devices, pools._workers = count, pools._worker_devices[:count], None
    yield
    if pools._workers is not None:
        pools._workers.close()
    strategy._num_workers, pools._worker_devices, pools._workers = before


def all_train(monkeypatch):
    """All workers train young models too, in whole closures: for tests of what they do beside one another."""
    from tfps.training.asynchronous import pacing
    from tfps.training.pacing import Pace

    monkeypatch.setattr(pacing, "young_pace", lambda trained, workers, most, for_each: Pace(workers, most))


@pytest.fixture
def no_young(monkeypatch):
    """Every model counts as old."""
    all_train(monkeypatch)


@pytest.fixture
def small_tables(strategy, monkeypatch):
    """Makes tables that a model creates in the test dense variables, as is the default of a strategy."""
    monkeypatch.setattr(strategy.factory.small_tables, "limit", DENSE_TABLES_BYTES)
    strategy.factory.small_tables.begin_model()


@pytest.fixture
def data():
    """Where the real data sets are; the test is skipped where they are not."""
    if not DATA.is_dir():
        pytest.skip(f"needs the real data sets in {DATA}")
    return DATA
