"""Hot servers are found by what steps requested, and the new plan makes servers even, whatever made one hot."""

import collections
import json
import random

import numpy as np
import pytest

from tfps.errors import PlanError
from tfps.placement import Placement, Plan, Routing, VariableSpec
from tfps.placement.hot_advice import advise_on_hot
from tfps.placement.rebalance import plan_for, rebalance
from tfps.placement.report import largest_to_mean
from tfps.placement.requested import RequestedRows, find_hot, server_loads
from tfps.placement.traffic import draws_for, table_traffic

ROWS = 10_000


def table(name, servers, kind="hash", rows=ROWS, width=16, **fields):
    routing = Routing(kind, rows, len(servers))
    return Placement.on(VariableSpec(name, (rows, width), is_table=True, **fields), servers, routing)


def count(plan, batches):
    """Counts the unique rows of each batch by table and shard: {table: [ids of a batch, ...]}."""
    counts = collections.Counter()
    for name, ids in batches.items():
        for batch in ids:
            for shard in plan.find(name).routing.locate(np.unique(batch))[0]:
                counts[name, int(shard)] += 1
    return RequestedRows.of_counts(max(len(ids) for ids in batches.values()), counts)


def draw(seed, rows=ROWS, low=1.0, steps=32, size=256):
    """Batches of ids; `low` is the part of the rows from which nine of ten are drawn."""
    generator = np.random.default_rng(seed)
    return [
        np.where(generator.random(size) < 0.9, generator.integers(0, int(rows * low), size), generator.integers(rows))
        for _ in range(steps)
    ]


def ratio_after(plan, batches):
    """Largest / mean of the servers if the steps asked for the same ids with the rebalanced plan, counted anew."""
    new = rebalance(plan, count(plan, batches)).plan
    return largest_to_mean(server_loads(new, count(new, batches)))


def test_a_range_that_is_asked_for_most_is_spread_by_hash():
    plan = Plan(3, (table("a", (0, 1, 2), "div"), table("b", (0, 1, 2), width=4)))
    batches = {"a": draw(1, low=0.3), "b": draw(2)}
    hot = find_hot(plan, count(plan, batches))
    assert hot.server == 0 and hot.ratio > 2.0 and hot.tables[0][0] == "a"
    assert sum(share for _, share in hot.tables) == pytest.approx(hot.share)
    assert ratio_after(plan, batches) < 1.1
    rebalanced = rebalance(plan, count(plan, batches))
    assert [(new.spec.name, new.routing.kind) for new in rebalanced.moved] == [("a", "hash")]
    line = advise_on_hot(hot, rebalanced)
    assert f"server 0 has {hot.share:.0%}" in line and f"'a' {hot.tables[0][1]:.0%}" in line
    assert "'a' from div (servers 0, 1, 2) to hash (servers 0, 1, 2)" in line
    assert f"should then be {rebalanced.largest_share:.0%}" in line


def test_ids_with_a_stride_are_spread_by_hash():
    plan = Plan(4, (table("a", range(4), "mod"),))
    batches = {"a": [ids // 4 * 4 for ids in draw(3)]}
    assert find_hot(plan, count(plan, batches)).ratio == pytest.approx(4.0)
    assert ratio_after(plan, batches) < 1.2


def test_a_large_hot_table_is_split_and_small_ones_move_whole():
    plan = Plan(3, (table("large", (1,)), table("x", (1,), rows=50, width=4), *(table(n, (1,), width=2) for n in "yz")))
    batches = {"large": draw(4), "x": draw(5, 50, size=32), "y": draw(6, size=128), "z": draw(7, size=128)}
    assert find_hot(plan, count(plan, batches)).ratio == pytest.approx(3.0)
    moved = {new.spec.name: new for new in rebalance(plan, count(plan, batches)).moved}
    assert moved["large"].servers == (0, 1, 2)
    assert ratio_after(plan, batches) < 1.2
    # Tables that move whole keep their rule.
    assert all(len(new.shards) == 1 for name, new in moved.items() if name != "large")


def test_many_small_tables_of_one_server_move_to_others():
    small = [table(f"t{number}", (0,), rows=200, width=4) for number in range(9)]
    plan = Plan(3, tuple(small))
    batches = {one.spec.name: draw(8 + number, 200, size=32) for number, one in enumerate(small)}
    new = rebalance(plan, count(plan, batches))
    assert ratio_after(plan, batches) < 1.2
    # No more tables move than have to.
    assert len(new.moved) == 6


def test_a_growing_table_gets_more_shards():
    plan = Plan(3, (table("a", (0, 1, 2), "key", rows=1 << 20, growing=True),))
    ids = np.arange(200_000)
    unlucky = ids[plan.find("a").routing.locate(ids)[0] == 2]
    batches = {"a": [unlucky[start : start + 512] for start in range(0, 512 * 32, 512)]}
    assert find_hot(plan, count(plan, batches)).ratio == pytest.approx(3.0)
    assert ratio_after(plan, batches) < 1.35


def test_a_growing_table_keeps_a_budget_that_a_shard_accepts():
    # 4 MiB of rows: the 13 shards of the test above would have less than the least budget of a shard, 1 MiB.
    plan = Plan(3, (table("a", (0, 1, 2), "key", rows=1 << 16, growing=True),))
    ids = np.arange(200_000)
    unlucky = ids[plan.find("a").routing.locate(ids)[0] == 2]
    requested = count(plan, {"a": [unlucky[start : start + 512] for start in range(0, 512 * 32, 512)]})
    assert rebalance(plan, requested).plan is plan


def test_a_few_hot_rows_cannot_be_divided_and_the_advice_says_so():
    plan = Plan(3, (table("a", (0, 1, 2), rows=40),))
    requested = count(plan, {"a": [np.zeros(8, np.int64)] * 32})
    rebalanced = rebalance(plan, requested)
    assert rebalanced.plan is plan and not rebalanced.moved
    assert "No move of rows would help" in advise_on_hot(find_hot(plan, requested), rebalanced)


def test_an_even_plan_stays_as_it_is():
    plan = Plan(3, (table("a", (0, 1, 2)), Placement.on(VariableSpec("dense", (9, 9)), (1,), None)))
    requested = count(plan, {"a": draw(9)})
    assert find_hot(plan, requested) is None
    assert rebalance(plan, requested).plan is plan
    assert plan_for(plan, requested, 3) is plan and plan_for(plan, None, 3) is plan


def test_few_steps_say_nothing():
    plan = Plan(3, (table("a", (0,)),))
    assert find_hot(plan, RequestedRows(15, {"a": (1000,)})) is None
    assert find_hot(plan, RequestedRows(16, {"a": (1000,)})).server == 0


def test_another_number_of_servers_is_planned_by_what_was_counted():
    plan = Plan(2, (table("a", (0, 1)), table("b", (0,), width=4)))
    requested = count(plan, {"a": draw(10), "b": draw(11)})
    new = plan_for(plan, requested, 5)
    assert new.num_servers == 5 and [one.spec.name for one in new] == ["a", "b"]
    for name in ("a", "b"):
        # What was counted are unique rows; the plan wants ids with repeats, and estimates the unique ones from them.
        spec = new.find(name).spec
        unique = sum(requested.tables[name]) / 32
        assert spec.rows_per_step > unique
        assert sum(table_traffic(spec, new.find(name).routing).unique) == pytest.approx(unique, rel=0.01)


def test_a_step_that_looks_up_all_rows_has_a_number_of_draws():
    spec = VariableSpec("a", (50, 4), is_table=True)
    assert draws_for(spec, 0.0) == 0.0
    assert 50 < draws_for(spec, 50.0) < 10_000


@pytest.mark.parametrize("seed", range(20))
def test_a_random_plan_never_gets_worse_and_keeps_every_variable(seed):
    rng = random.Random(seed)
    servers = rng.randint(2, 6)
    placements = []
    for number in range(rng.randint(1, 8)):
        shards = rng.choice([1, servers])
        on = [rng.randrange(servers) if shards == 1 else shard for shard in range(shards)]
        placements.append(table(f"t{number}", on, rng.choice(["div", "mod", "hash"]), rng.randint(300, ROWS)))
    plan = Plan(servers, tuple(placements))
    requested = RequestedRows(
        100, {one.spec.name: [int(rng.paretovariate(0.5)) for _ in one.shards] for one in placements}
    )
    new = rebalance(plan, requested)
    assert max(new.loads) <= max(new.loads_before)
    assert sum(new.loads) == pytest.approx(sum(new.loads_before))
    assert [one.spec for one in new.plan] == [one.spec for one in plan]
    if find_hot(plan, requested) is None:
        assert new.plan is plan


def test_counts_are_saved_and_read_again():
    requested = RequestedRows(7, {"a": (1, 2), "b": (3,)})
    assert RequestedRows.from_json(json.loads(json.dumps(requested.to_json()))) == requested
    for broken in (None, [], {}, {"steps": 1}, {"steps": -1, "tables": {}}, {"steps": 1, "tables": {"a": [-1]}}):
        with pytest.raises(PlanError):
            RequestedRows.from_json(broken)
    with pytest.raises(PlanError, match=r"`requested` must be a RequestedRows"):
        rebalance(Plan(1), None)
