"""Snapshots are made while somebody wants them, and nobody waits for anybody."""

import threading
import time

import pytest

from tests.monitoring.jobs_for_tests import full_snapshot
from tfps.errors import ClusterError, ClusterTimeoutError
from tfps.monitoring.collector import Collector


class Maker:
    """Makes numbered snapshots."""

    def __init__(self):
        self.calls, self.error, self.delay_s = 0, None, 0.0

    def __call__(self):
        self.calls += 1
        time.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        return full_snapshot(steps=self.calls)


@pytest.fixture
def maker():
    return Maker()


@pytest.fixture
def collector(maker):
    collector = Collector(maker, every_s=0.05)
    yield collector
    collector.close()


OTHERS = set()


@pytest.fixture(autouse=True)
def other_collectors():
    """That of the strategy of other tests may still run."""
    OTHERS.update(collectors())
    yield
    OTHERS.clear()


def collectors():
    return [one for one in threading.enumerate() if one.name == "tfps-collector" and one not in OTHERS]


def wait_until(condition, limit_s=10.0):
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_nothing_is_made_that_nobody_wants(collector, maker):
    time.sleep(0.2)
    assert maker.calls == 0 and collector.latest() is None and not collectors()


def test_each_snapshot_is_given_once(collector, maker):
    with collector.subscribe() as watching:
        steps = [watching.next(10).steps for _ in range(5)]
        assert steps == sorted(set(steps))
        assert watching.latest().steps >= steps[-1]


def test_the_thread_ends_after_the_last_subscriber(collector, maker):
    with collector.subscribe() as first:
        with collector.subscribe() as second:
            first.next(10), second.next(10)
            assert len(collectors()) == 1
        first.next(10)
    wait_until(lambda: not collectors())
    calls = maker.calls
    time.sleep(0.2)
    assert maker.calls == calls
    # The next one starts it again, and gets no old snapshot.
    with collector.subscribe() as third:
        assert third.next(10).steps > calls


def test_those_who_only_ask_now_and_then(collector, maker):
    collector.want(0.3)
    wait_until(lambda: maker.calls >= 3)
    wait_until(lambda: not collectors())


def test_a_snapshot_that_fails_is_left_out(collector, maker):
    maker.error = ClusterError("the server is replaced")
    with collector.subscribe() as watching:
        with pytest.raises(ClusterTimeoutError, match="no new snapshot of the job: waited 0.3 s"):
            watching.next(0.3)
        maker.error = None
        assert watching.next(10).steps > 1


def test_a_slow_snapshot_holds_up_nobody_who_only_looks(collector, maker):
    maker.delay_s = 2.0
    with collector.subscribe() as watching:
        began = time.monotonic()
        assert watching.latest() is None
        assert time.monotonic() - began < 0.5


def test_the_end_is_told(collector, maker):
    with collector.subscribe() as watching:
        watching.next(10)
        collector.close()
        with pytest.raises(ClusterTimeoutError, match="its strategy has ended"):
            watching.next(10)
    wait_until(lambda: not collectors())
    with collector.subscribe() as late, pytest.raises(ClusterTimeoutError, match="has ended"):
        late.next(10)
    assert not collectors()
