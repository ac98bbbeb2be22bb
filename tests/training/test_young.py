"""How a young model is trained: few workers are at work beside one another, and not for long."""

import types

import keras
import pytest

from tfps.keras.model_steps import ModelSteps
from tfps.training import runner
from tfps.training.asynchronous.pacing import ALONE, UNSEEN, YoungPacing, begins_alone
from tfps.training.closure import Result
from tfps.training.geo.pacing import WindowPacing
from tfps.training.paced_schedules import make_paced_schedule
from tfps.training.pacing import CLOSURES_AN_EPOCH, Pace, SteadyPacing, closure_steps

BATCHES = 4_000
MOST = 20
ON_ALL = 8
"""The steps of a closure while one worker reads the whole input."""
FED = lambda: 4  # noqa: E731
"""The steps of a closure over fed batches."""


class Calls:
    """Calls that end in the order in which they were made."""

    last_s = 0.0

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
    """Workers that run closures at once, each on its own shard of the input; `orders` has (shard, steps) of each."""

    def __init__(self, workers, monkeypatch, fed=False, trained=0, mode="windows", parts=1, weight=1.0):
        monkeypatch.setattr(runner, "Calls", Calls)
        self.orders = []
        self._left = [BATCHES // workers] * workers
        self._fed = fed
        self.pool = types.SimpleNamespace(devices=list(range(workers)))
        self.closure_timeout_s = 1.0
        source = types.SimpleNamespace(num_batches=None if fed else BATCHES, is_fed=fed, steps_per_epoch=None)
        alone = mode == "asynchronous" and not fed and workers > 1 and begins_alone(trained, workers, weight, parts)
        if mode == "windows":
            steps = closure_steps(source.num_batches, workers, MOST)
            pacing = WindowPacing(workers, steps, parts, fed, trained, None)
        else:
            pace = Pace(workers, closure_steps(source.num_batches, workers * CLOSURES_AN_EPOCH, MOST))
            steady = mode == "steady"
            young = YoungPacing(pace, parts, FED, trained, weight, ON_ALL if alone else None)
            pacing = SteadyPacing(pace, parts, FED) if steady else young
        run_on = runner.Runner(self, self, lambda result: None)
        self.schedule = make_paced_schedule(run_on, Input(source, workers, alone), pacing, MOST)
        if alone:
            self._left = [BATCHES] + [0] * (workers - 1)

    def start_shards(self, epoch):
        self._left = [BATCHES // len(epoch.taken) - taken for taken in epoch.taken]

    def host_of(self, shard):
        return shard

    def over_iterator(self, name, order):
        steps = min(order.steps, self._left[order.shard])
        self._left[order.shard] -= steps
        self.orders.append((order.shard, steps))
        return steps

    def over_batches(self, batches, order):
        self.orders.append((order.shard, order.steps))
        return order.steps

    def read(self, steps):
        return Result(steps, [], {})


class Input:
    """What the chief feeds from, where it does."""

    def __init__(self, source, workers, alone):
        self.source, self._batches = source, iter(range(BATCHES))
        self.hosts, self.taken, self.alone, self.handed = list(range(workers)), [0] * workers, alone, 0
        self.iterators = dict.fromkeys(range(workers), "input")

    def __iter__(self):
        return self._batches

    @property
    def to_start(self):
        return range(1 if self.alone else len(self.taken))

    def divide(self):
        assert sum(self.taken) == self.taken[0], "another shard was trained before the input was divided"
        self.taken = [len(range(shard, self.taken[0], len(self.taken))) for shard in range(len(self.taken))]
        self.alone = False


def trained(cluster):
    """All steps, and for each order the worker, its steps, and how many steps were done before."""
    while cluster.schedule.take(1):
        pass
    done, notes = 0, []
    for worker, steps in cluster.orders:
        notes.append((worker, steps, done))
        done += steps
    return done, notes


@pytest.mark.parametrize("fed", [False, True], ids=["shipped", "fed"])
@pytest.mark.parametrize("workers", [2, 4, 8])
def test_what_is_under_way_unseen_is_a_fraction_of_what_was_trained(monkeypatch, workers, fed):
    done, notes = trained(Cluster(workers, monkeypatch, fed))
    assert done == BATCHES
    for worker, steps, before in notes:
        if before < BATCHES // workers:  # later a worker may be alone, because the others' shards are used up
            unseen = before / (32 if workers == 2 else 128)
            assert steps <= max(1, unseen / workers) and worker <= before // 32
    assert {steps for _, steps, _ in notes} >= {1, {2: 16, 4: 4, 8: 1}[workers]} and {
        worker for worker, _, _ in notes
    } == set(range(workers))


def test_a_worker_whose_shard_is_used_up_makes_room(monkeypatch):
    monkeypatch.setitem(globals(), "BATCHES", 20)  # fewer than a second worker waits for
    done, notes = trained(Cluster(4, monkeypatch))
    assert done == 20 and {worker for worker, _, _ in notes} == {0, 1, 2, 3}


@pytest.mark.parametrize("fed", [False, True], ids=["shipped", "fed"])
def test_a_trained_model_and_one_worker_begin_with_whole_windows(monkeypatch, fed):
    for cluster in (Cluster(4, monkeypatch, fed, trained=100_000), Cluster(1, monkeypatch, fed)):
        _, notes = trained(cluster)
        assert all(steps == 20 for _, steps, before in notes if before < BATCHES - 80)
        assert sorted({worker for worker, _, _ in notes[:8]}) == list(range(len(cluster.pool.devices)))


def test_a_steady_pace_has_all_workers_from_the_first_step_on(monkeypatch):
    _, notes = trained(Cluster(4, monkeypatch, mode="steady"))
    assert [(worker, steps) for worker, steps, _ in notes[:4]] == [(0, 20), (1, 20), (2, 20), (3, 20)]


@pytest.mark.parametrize("fed", [False, True], ids=["shipped", "fed"])
@pytest.mark.parametrize("workers", [2, 4, 8])
def test_asynchronous_steps_under_way_are_a_fraction_of_those_trained(monkeypatch, workers, fed):
    monkeypatch.setitem(globals(), "BATCHES", 8_000)
    done, notes = trained(Cluster(workers, monkeypatch, fed, mode="asynchronous"))
    assert done == BATCHES
    for worker, steps, before in notes:
        if before < BATCHES // workers:
            assert not worker if before < ALONE else worker <= before // UNSEEN
            # Two closures of the worker that is alone may end before the others join.
            alone = 4 if fed else ON_ALL
            assert steps <= (alone if before < ALONE + 2 * alone else max(1, before // UNSEEN // workers))
    assert {worker for worker, _, _ in notes} == set(range(workers))
    lengths = {steps for _, steps, _ in notes}
    # A graph is traced for each number of fed batches.
    assert lengths <= {1, 4} if fed else max(lengths) == min(20, BATCHES // UNSEEN // workers)


@pytest.mark.parametrize("fed", [False, True], ids=["shipped", "fed"])
def test_an_old_model_and_one_worker_have_whole_closures_from_the_first_on(monkeypatch, fed):
    for workers, steps_before in ((4, 100_000), (1, 0)):
        cluster = Cluster(workers, monkeypatch, fed, steps_before, mode="asynchronous")
        _, notes = trained(cluster)
        assert [(worker, steps) for worker, steps, _ in notes[:workers]] == [
            (worker, 4 if fed else 20) for worker in range(workers)
        ]


def test_one_worker_alone_reads_the_whole_input_and_the_rest_is_divided_evenly(monkeypatch):
    monkeypatch.setitem(globals(), "BATCHES", 60)
    done, notes = trained(Cluster(4, monkeypatch, mode="asynchronous"))
    assert done == 60 and {worker for worker, _, _ in notes} == {0}
    monkeypatch.setitem(globals(), "BATCHES", 2_000)
    cluster = Cluster(4, monkeypatch, mode="asynchronous")
    done, notes = trained(cluster)
    assert done == 2_000 and cluster.schedule.epoch.taken == [500] * 4
    divided = next(before for worker, _, before in notes if worker)
    assert ALONE <= divided < ALONE + 2 * ON_ALL
    assert {steps for _, steps, before in notes if before < ALONE} == {ON_ALL}


def test_spans_that_overlap_make_a_model_count_as_half_as_old():
    plain, overlapped = (YoungPacing(Pace(2, 16), parts, FED, 1_024) for parts in (1, 4))
    assert plain.pace(0) == Pace(2, 8) and overlapped.pace(0) == Pace(2, 4)
    assert not plain.is_whole(1_023) and plain.is_whole(1_024) and not overlapped.is_whole(1_024)


def test_a_momentum_of_nine_tenths_makes_a_model_young_for_ten_times_as_long(monkeypatch):
    _, notes = trained(Cluster(2, monkeypatch, mode="asynchronous", weight=1 / (1 - 0.9)))
    first = next(before for worker, _, before in notes if worker == 1)
    assert 10 * UNSEEN <= first < 10 * UNSEEN + 2 * ON_ALL
    assert all(steps <= before // (20 * UNSEEN) for _, steps, before in notes if 20 * UNSEEN <= before < BATCHES // 2)


@pytest.mark.parametrize(
    ("optimizer", "layer", "weight"),
    [
        (lambda: keras.optimizers.SGD(0.1), "Dense", 1),
        (lambda: keras.optimizers.SGD(0.1, momentum=0.75), "Dense", 4),
        (lambda: keras.optimizers.SGD(0.1, momentum=1.0), "Dense", 100),
        (lambda: keras.optimizers.RMSprop(0.1, momentum=0.5), "Dense", 2),
        (lambda: keras.optimizers.Adam(0.1), "Dense", 1),
        (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.75)), "Dense", 4),
        (lambda: keras.optimizers.Adam(0.1), "GRU", 8),
        (lambda: keras.optimizers.SGD(0.1, momentum=0.75), "GRU", 32),
        (lambda: keras.optimizers.SGD(0.1, momentum=0.99), "GRU", 100),
    ],
)
def test_sensitive_models_have_shorter_closures_where_their_length_is_not_set(
    strategy, monkeypatch, optimizer, layer, weight
):
    with strategy.scope():
        model = keras.Sequential([keras.Input((3, 2)), getattr(keras.layers, layer)(1)])
        model.compile(optimizer(), "mse")
    steps = ModelSteps(model, model.train_step)
    assert steps.weight_of_unseen() == pytest.approx(weight) and steps.trained_steps() == 0
    assert steps.exchange_steps() == max(1, 16 // weight) and steps.closure_steps() == 16
    model.steps_per_execution = 8
    assert steps.exchange_steps() == 8
    model.steps_per_execution = 1
    monkeypatch.setattr(strategy, "dense_exchange_every", 7)
    assert steps.exchange_steps() == 7
