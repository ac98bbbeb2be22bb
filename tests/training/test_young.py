"""How windows begin: in a young model few workers are at work beside one another, and not for long."""

import types

import pytest

from tfps.training import schedule as closures
from tfps.training import schedules
from tfps.training.closure import Result

BATCHES = 4_000


class Calls:
    """Calls that end in the order in which they were made; notes what was under way when each was."""

    def __init__(self, *_):
        self._calls = []

    def __len__(self):
        return len(self._calls)

    def submit(self, worker, tag, function, chain=None):
        self._calls.append((tag, function))

    def take(self):
        tag, function = self._calls.pop(0)
        return tag, function()


class Cluster:
    """Workers that do what they are told at once, each on its own share of the input, and the steps they were told."""

    def __init__(self, workers, monkeypatch, fed=False, **runner):
        monkeypatch.setattr(closures, "Calls", Calls)
        self.orders = []
        self._left = [BATCHES // workers] * workers
        pool = types.SimpleNamespace(devices=list(range(workers)))
        settings = {"most": 20, "timeout_s": 1.0, "windows": True} | runner
        runner = closures.Runner(
            pool,
            host_of=lambda share: share,
            over_iterator=self._run,
            over_batches=lambda order, _: self._run(order),
            resume_shard=lambda *_: None,
            numbers=[0] * workers,
            read=lambda steps: Result(steps, [], {}),
            done=lambda _: None,
            **settings,
        )
        source = types.SimpleNamespace(num_batches=None if fed else BATCHES, fed=fed, steps_per_epoch=None)
        self.stream = schedules.make_schedule(runner, Input(source, workers))

    def _run(self, order):
        steps = min(order.steps, self._left[order.shard]) if not self.stream.epoch.source.fed else order.steps
        self._left[order.shard] -= steps
        self.orders.append((order.shard, steps))
        return steps


class Input:
    """What the chief feeds from, where it does."""

    def __init__(self, source, workers):
        self.source, self._batches = source, iter(range(BATCHES))
        self.hosts, self.taken = list(range(workers)), [0] * workers

    def __iter__(self):
        return self._batches


def trained(cluster):
    """All steps, and for each order the worker, its steps, and how many steps were done before."""
    while cluster.stream.take(1):
        pass
    done, notes = 0, []
    for worker, steps in cluster.orders:
        notes.append((worker, steps, done))
        done += steps
    return done, notes


@pytest.mark.parametrize("fed", [False, True], ids=["shipped", "fed"])
@pytest.mark.parametrize("workers", [2, 4, 8])
def test_what_is_under_way_unseen_is_a_share_of_what_was_trained(monkeypatch, workers, fed):
    done, notes = trained(Cluster(workers, monkeypatch, fed))
    assert done == BATCHES
    for worker, steps, before in notes:
        if before < BATCHES // workers:  # later a worker may be alone, because the others' shares are used up
            unseen = before / (32 if workers == 2 else 128)
            assert steps <= max(1, unseen / workers) and worker <= before // 32
    assert {steps for _, steps, _ in notes} >= {1, {2: 16, 4: 4, 8: 1}[workers]} and {
        worker for worker, _, _ in notes
    } == set(range(workers))


def test_a_worker_whose_share_is_used_up_makes_room(monkeypatch):
    monkeypatch.setitem(globals(), "BATCHES", 20)  # fewer than a second worker waits for
    done, notes = trained(Cluster(4, monkeypatch))
    assert done == 20 and {worker for worker, _, _ in notes} == {0, 1, 2, 3}


@pytest.mark.parametrize("fed", [False, True], ids=["shipped", "fed"])
def test_a_trained_model_and_one_worker_begin_with_whole_windows(monkeypatch, fed):
    for cluster in (Cluster(4, monkeypatch, fed, trained=100_000), Cluster(1, monkeypatch, fed)):
        _, notes = trained(cluster)
        assert all(steps == 20 for _, steps, before in notes if before < BATCHES - 80)
        assert sorted({worker for worker, _, _ in notes[:8]}) == list(range(len(cluster.stream.runner.pool.devices)))


def test_other_modes_are_as_they_were(monkeypatch):
    _, notes = trained(Cluster(4, monkeypatch, windows=False))
    assert [(worker, steps) for worker, steps, _ in notes[:4]] == [(0, 20), (1, 20), (2, 20), (3, 20)]
