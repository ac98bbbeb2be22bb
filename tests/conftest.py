"""One cluster of real processes for all tests that train: 2 parameter servers and 2 workers, started once."""

import pathlib
import signal

import pytest

DATA = pathlib.Path(__file__).parents[2] / "shared" / "data"


# A shell starts what it puts in the background, maybe this, with SIGINT ignored, and the programs of tests inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def strategy():
    import tfps

    cluster = tfps.LocalCluster(num_ps=2, num_workers=2)
    strategy = tfps.ParameterServerStrategy(cluster)
    yield strategy
    strategy.close()


@pytest.fixture
def data():
    """Where the real data sets are; the test is skipped where they are not."""
    if not DATA.is_dir():
        pytest.skip(f"needs the real data sets in {DATA}")
    return DATA
