"""Plans of whole models: every variable once, balanced, repeatable; incremental placing and following a plan."""

import functools
import random
import threading
import time

import numpy as np
import pytest

from tfps.errors import PlanError
from tfps.placement import balancers
from tfps.placement.balancers import GreedyBytes, GreedyBytesAndTraffic, RoundRobin
from tfps.placement.greedy import exchange_shards
from tfps.placement.loads import QUANTITIES, Loads, compute_demand
from tfps.placement.model import Plan
from tfps.placement.partitioners import FixedShards, MaxBytes
from tfps.placement.planner import IncrementalPlacer, plan
from tfps.placement.spec import VariableSpec

BALANCERS = (RoundRobin(), GreedyBytes(), GreedyBytesAndTraffic())


def place_in_order(specs, num_servers, **kwargs):
    placer = IncrementalPlacer(num_servers, **kwargs)
    for spec in specs:
        placer.place(spec)
    return placer.plan


@pytest.mark.parametrize("make", [plan, place_in_order], ids=["plan", "incremental"])
@pytest.mark.parametrize("balancer", BALANCERS, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_random_models_are_held_exactly_once(make, balancer, seed, random_specs):
    specs, num_servers = random_specs(seed), random.Random(seed).choice([1, 2, 3, 8])
    partitioner = [None, FixedShards(3), MaxBytes(1 << 20, max_shards=50)][seed % 3]
    made = make(specs, num_servers, partitioner=partitioner, balancer=balancer)
    made.check(specs)
    assert [placement.spec for placement in made] == specs
    for placement in made:
        assert sum(shard.rows for shard in placement.shards) == placement.spec.rows
    _check_shards_apart(made)
    assert sum(load.nbytes for load in made.loads()) == sum(spec.nbytes for spec in specs)
    assert sum(load.bytes_with_slots for load in made.loads()) == sum(spec.bytes_with_slots for spec in specs)


def _check_shards_apart(made):
    """No server holds two shards more of a variable than another."""
    for placement in made:
        held = np.bincount(placement.servers, minlength=made.num_servers)
        assert held.max() - held.min() <= 1, placement


@pytest.mark.parametrize("balancer", BALANCERS, ids=str)
def test_plans_repeat(balancer, random_specs):
    specs = random_specs(11)
    assert plan(specs, 5, balancer=balancer) == plan(specs, 5, balancer=balancer)


@functools.cache
def _zipf(exponent, rows):
    """Chance of an id up to each rank, not normed."""
    return np.cumsum(np.arange(1, rows + 1) ** -exponent)


def _rows_asked(made, exponent, batch=512, steps=4, seed=0):
    """Draws zipf ids for every table and counts rows a server: (repeats counted, each row once a step)."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((2, made.num_servers))
    tables = [placement for placement in made if placement.spec.is_table]
    largest = _zipf(exponent, max(placement.spec.rows for placement in tables))
    for placement in tables:
        chance = largest[: placement.spec.rows]
        servers = np.array(placement.servers)
        for _ in range(steps):
            ids = np.searchsorted(chance, rng.random(batch) * chance[-1])
            for kind, asked in enumerate((ids, np.unique(ids))):
                np.add.at(counts[kind], servers[placement.routing.locate(asked)[0]], 1)
    return counts


def _unevenness(values):
    values = np.asarray(values, float)
    return values.max(-1) / values.mean(-1)


@pytest.mark.parametrize(
    ("make", "exponent"), [(plan, 0.9), (plan, 1.05), (plan, 1.2), (place_in_order, 0.9), (place_in_order, 1.05)]
)
def test_criteo_on_eight_servers_is_even_in_bytes_and_in_rows_asked(make, exponent, criteo_specs):
    made = make(criteo_specs, 8)
    assert _unevenness([load.nbytes for load in made.loads()]) <= 1.05
    assert _unevenness([load.bytes_with_slots for load in made.loads()]) <= 1.05
    with_repeats, once = _unevenness(_rows_asked(made, exponent))
    assert with_repeats <= 1.2
    assert once <= 1.2


@pytest.mark.parametrize("num_servers", [1, 2, 3, 5, 8, 11, 16])
@pytest.mark.parametrize("exponent", [0.9, 1.2])
def test_criteo_is_even_on_any_number_of_servers(num_servers, exponent, criteo_specs):
    _check_even(plan(criteo_specs, num_servers), exponent, steps=20)


@pytest.mark.parametrize("num_servers", [3, 8, 16])
@pytest.mark.parametrize("count", [100, 300])
@pytest.mark.parametrize("make", [plan, place_in_order])
def test_many_tables_of_all_sizes_are_even(make, count, num_servers):
    rng = np.random.default_rng(count)
    rows = (10 ** rng.uniform(0.5, 6, count)).astype(int)
    specs = [VariableSpec(f"t{i}", (rows[i], 2 ** rng.integers(2, 6)), slots=1, is_table=True) for i in range(count)]
    _check_even(make(specs, num_servers), exponent=1.05, steps=2)


def _check_even(made, exponent, steps):
    for field in ("nbytes", "bytes_with_slots"):
        assert _unevenness([getattr(load, field) for load in made.loads()]) <= 1.05
    with_repeats, once = _unevenness(_rows_asked(made, exponent, steps=steps))
    assert with_repeats <= 1.2
    assert once <= 1.2


def test_round_robin_and_ranges_are_uneven_where_the_defaults_are_not(criteo_specs):
    stock = plan(criteo_specs, 8, partitioner=FixedShards(8), balancer=RoundRobin(), routing="div")
    assert _unevenness(_rows_asked(stock, 1.05))[0] > 2
    whole = plan(criteo_specs, 8, partitioner=FixedShards(1), balancer=GreedyBytes())
    assert _unevenness([load.nbytes for load in whole.loads()]) > 2


def test_loads_foretell_what_a_simulation_counts(criteo_specs):
    made = plan(criteo_specs, 8)
    counted = _rows_asked(made, 1.05, steps=6) / 6
    loads = made.loads()
    np.testing.assert_allclose([load.lookups_per_step for load in loads], counted[0], rtol=0.05)
    np.testing.assert_allclose([load.rows_per_step for load in loads], counted[1], rtol=0.05)


def test_the_hot_shards_of_equal_tables_are_apart():
    """All route id 0 to the same shard; that shard must not always be on the same server."""
    specs = [VariableSpec(f"t{i}", (100_000, 8), is_table=True) for i in range(8)]
    made = plan(specs, 8)
    hot = [placement.servers[int(placement.routing.locate(np.array([0]))[0][0])] for placement in made]
    assert len(set(hot)) >= 6
    assert _unevenness([load.lookups_per_step for load in made.loads()]) < 1.1


def test_largest_first_beats_the_order_of_creation():
    sizes = [1, 1, 1, 1, 1, 1, 6, 6]
    specs = [VariableSpec(f"d{i}", (size * 1000,)) for i, size in enumerate(sizes)]
    known = plan(specs, 2, balancer=GreedyBytes())
    assert [load.nbytes for load in known.loads()] == [36_000, 36_000]


def test_mending_evens_out_what_greed_left():
    """Any start will do: here each variable is on servers drawn by lot."""
    rng = np.random.default_rng(7)
    for _ in range(20):
        demands = [rng.pareto(1.5, (rng.integers(1, 5), QUANTITIES)) for _ in range(30)]
        placed = [[int(server) for server in rng.permutation(4)[: len(demand)]] for demand in demands]
        before = _largest_parts(placed, demands)
        exchange_shards(placed, demands, 4, np.ones(QUANTITIES))
        assert _largest_parts(placed, demands) < 0.8 * before
        assert all(len(set(servers)) == len(demand) for servers, demand in zip(placed, demands, strict=True))


def _largest_parts(placed, demands):
    """How far the most loaded server is above the mean, over all quantities."""
    loads = Loads.empty(4)
    for servers, demand in zip(placed, demands, strict=True):
        loads.add(servers, demand)
    return (loads.totals.max(0) / loads.totals.mean(0) - 1).sum()


def test_a_plan_of_all_variables_is_mended(criteo_specs, monkeypatch):
    mended = plan(criteo_specs, 8)
    monkeypatch.setattr(balancers, "exchange_shards", lambda *args: None)
    greedy = plan(criteo_specs, 8)
    assert sum(map(_unevenness, _demands(mended))) < sum(map(_unevenness, _demands(greedy))) - 0.02


def _demands(made):
    """What the servers carry, quantity by quantity."""
    loads = Loads.empty(made.num_servers)
    for placement in made:
        loads.add(placement.servers, compute_demand(placement))
    return loads.totals.T


def test_greedy_bytes_counts_slots():
    specs = [VariableSpec("a", (10,), slots=2), VariableSpec("b", (10,)), VariableSpec("c", (10,))]
    assert [placement.servers for placement in place_in_order(specs, 2, balancer=GreedyBytes())] == [(0,), (1,), (1,)]


def test_slots_lie_beside_their_table():
    placer = IncrementalPlacer(4)
    table = placer.place(VariableSpec("table", (10_000, 8), is_table=True))
    slot = placer.place_like(VariableSpec("table/accumulator", (10_000, 8), is_table=True), table)
    assert (slot.servers, slot.routing) == (table.servers, table.routing)
    with pytest.raises(PlanError, match="'short' must have 10000 rows to lie beside 'table'. Received: 9"):
        placer.place_like(VariableSpec("short", (9, 8), is_table=True), table)
    assert [placement.spec.name for placement in placer.plan] == ["table", "table/accumulator"]


def test_a_variable_is_placed_once():
    placer = IncrementalPlacer(2)
    placer.place(VariableSpec("v", (3,)))
    with pytest.raises(PlanError, match="placed once. Received: 'v' again"):
        placer.place(VariableSpec("v", (3,)))


def test_a_saved_plan_is_followed(criteo_specs, tmp_path):
    plan(criteo_specs, 8).save(tmp_path / "plan.json")
    saved = Plan.load(tmp_path / "plan.json")
    shuffled = random.Random(0).sample(criteo_specs, len(criteo_specs))
    followed = place_in_order(shuffled, 8, plan=saved)
    for placement in followed:
        assert placement == saved.find(placement.spec.name)


def test_a_followed_plan_keeps_the_slots_the_model_has_now():
    saved = plan([VariableSpec("v", (100, 4), is_table=True)], 2)
    now = IncrementalPlacer(2, plan=saved).place(VariableSpec("v", (100, 4), slots=2, is_table=True))
    assert (now.spec.slots, now.servers) == (2, saved.find("v").servers)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (VariableSpec("other", (100, 4), is_table=True), "must hold variable 'other'. Valid names: .'v'."),
        (VariableSpec("v", (101, 4), is_table=True), r"`shape` of variable 'v' .*: \(101, 4\). Valid: \(100, 4\)"),
        (VariableSpec("v", (100, 4), "float16", is_table=True), "`dtype` of variable 'v' .*'float16'"),
        (VariableSpec("v", (100, 4)), "`is_table` of variable 'v' .*Received: False"),
    ],
    ids=lambda value: "" if isinstance(value, VariableSpec) else value[:20],
)
def test_a_model_that_does_not_fit_a_followed_plan_is_refused(spec, message):
    saved = plan([VariableSpec("v", (100, 4), is_table=True)], 2)
    with pytest.raises(PlanError, match=message):
        IncrementalPlacer(2, plan=saved).place(spec)


def test_wrong_arguments_are_named():
    with pytest.raises(PlanError, match="`num_servers` must be an integer of at least 1. Received: 0"):
        IncrementalPlacer(0)
    with pytest.raises(PlanError, match="`num_servers` must be an integer of at least 1. Received: 0"):
        plan([], 0)
    with pytest.raises(PlanError, match="`plan` must be for 3 servers. Received: one for 2"):
        IncrementalPlacer(3, plan=Plan(2))
    with pytest.raises(PlanError, match="`balancer` must be one of .*GreedyBytes.*Received: 'greedy'"):
        plan([], 2, balancer="greedy")
    with pytest.raises(PlanError, match="`routing` must be one of .*Received: 'range'"):
        plan([], 2, routing="range")
    with pytest.raises(PlanError, match="every variable once. Received: 'v' twice"):
        plan([VariableSpec("v", (1,)), VariableSpec("v", (1,))], 2)


class AloneGreedyBytes(GreedyBytes):
    """Leaves time for another thread between reading the loads and changing them, and notes if one came."""

    entered = 0
    met = False

    def assign(self, demand, loads):
        cls = type(self)
        cls.entered += 1
        cls.met = cls.met or cls.entered > 1
        time.sleep(0.0005)
        cls.entered -= 1
        return super().assign(demand, loads)


def test_threads_lose_nothing():
    placer = IncrementalPlacer(3, balancer=AloneGreedyBytes())

    def place(thread):
        for index in range(50):
            placer.place(VariableSpec(f"{thread}/{index}", (10,)))

    threads = [threading.Thread(target=place, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=240)
    assert not AloneGreedyBytes.met
    assert len(placer.plan.placements) == 400
    nbytes = [load.nbytes for load in placer.plan.loads()]
    assert max(nbytes) - min(nbytes) <= 40
