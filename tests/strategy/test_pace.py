"""The verdict about the pace is over the last 20 seconds, however short epochs are, and it ages."""

import types

from tfps.monitoring.process import ProcessReading
from tfps.monitoring.record import JobCounts
from tfps.strategy.pace import Pace

EVERY_S = 2.0
SERVER, WORKER = ("ps", 0), ("worker", 0)


class Job:
    """A job whose server or worker keeps its core busy; it is looked at every two seconds."""

    def __init__(self):
        self.pace = Pace()
        self.now = 0.0
        self.steps = 0
        self.cpu_s = {SERVER: 0.0, WORKER: 0.0}

    def look(self, busy, epoch, phase="train", trains=True):
        """Two seconds later; returns the limit in the verdict."""
        self.now += EVERY_S
        self.steps += 100 if trains else 0
        self.cpu_s[busy] += EVERY_S
        # No machine is full, and each task has one of its own.
        readings = {key: ProcessReading(1, key[0], cpu, 0, 1, 4, self.now) for key, cpu in self.cpu_s.items()}
        pool = types.SimpleNamespace(busy_s=lambda: [self.now])
        counts = JobCounts(phase=phase, epochs_begun=epoch, steps=self.steps)
        found = self.pace.judge(types.SimpleNamespace(pool=pool), counts, readings, self.now)
        return None if found is None else found.limit


def test_epochs_shorter_than_a_look_have_a_verdict_that_follows_the_job():
    job = Job()
    limits = [job.look(SERVER, epoch) for epoch in range(12)]
    assert limits[:2] == [None, None] and limits[2:] == ["servers"] * 10
    # Then the worker is what is busy.
    assert [job.look(WORKER, epoch) for epoch in range(12, 24)][-1] == "workers"


def test_looks_that_fall_into_an_evaluation_are_left_out():
    job = Job()
    # In every evaluation the worker alone is busy.
    for epoch in range(6):
        for _ in range(3):
            last = job.look(SERVER, epoch)
        job.look(WORKER, epoch, phase="test", trains=False)
    assert last == "servers"


def test_a_verdict_ages():
    job = Job()
    for _ in range(5):
        assert job.look(SERVER, 0) in (None, "servers")
    idle = [job.look(SERVER, 0, phase="idle", trains=False) for _ in range(12)]
    assert idle[0] == "servers" and idle[-1] is None
    # A board that comes again after an hour: what was between is no part of the last seconds.
    assert job.look(SERVER, 1) is None
    job.now += 3600
    assert job.look(SERVER, 1) is None
