"""What is printed, advised and drawn: checked by the facts in it, not by its wording alone."""

import builtins

import pytest

from tfps.errors import LibraryError
from tfps.placement.advice import advise, format_start_up
from tfps.placement.balancers import RoundRobin
from tfps.placement.model import Placement, Plan
from tfps.placement.partitioners import FixedShards
from tfps.placement.planner import plan
from tfps.placement.plot import draw
from tfps.placement.report import compare, largest_to_mean, summarize
from tfps.placement.routing import Routing
from tfps.placement.spec import VariableSpec
from tfps.placement.text import format_ranges, human_bytes


def table(name="table", rows=1_000_000, width=16):
    return VariableSpec(name, (rows, width), slots=1, is_table=True)


def test_the_table_names_every_variable_and_server(criteo_specs):
    text = plan(criteo_specs, 8).table()
    lines = text.splitlines()
    for spec in criteo_specs:
        assert sum(line.startswith(spec.name + " ") for line in lines) == 1, spec.name
    assert [line.split()[0] for line in lines[-9:-1]] == [str(server) for server in range(8)]
    assert lines[-1].startswith("largest / mean")


def test_plans_of_nothing_print():
    empty = Plan(2)
    assert "largest / mean" in empty.table()
    assert "0 variables" in summarize(empty)
    assert len(advise(empty)) == 1


def test_summary_is_one_line_with_the_totals(criteo_specs):
    text = summarize(plan(criteo_specs, 8))
    assert "\n" not in text
    assert "34 variables, 4.3 GB with slots, on 8 parameter servers" in text


def test_the_line_at_start_up_counts_what_steps_ask_for(criteo_specs):
    made = plan(criteo_specs, 8)
    asked = {f"c{i}": 512 for i in range(26)}
    line = format_start_up(made, asked, 8, 4)
    assert "\n" not in line and "guess" not in line and "servers : workers is best about 1 : 3 to 1 : 5" in line
    rows = [
        int(format_start_up(made, ids, 8).split(" rows a step")[0].split()[-1])
        for ids in (asked, dict.fromkeys(asked, 64))
    ]
    assert rows[0] > 2 * rows[1] > 0
    assert "repeated_ids" not in line and "(repeated_ids='each')" in format_start_up(
        made, asked, 8, repeated_ids="each"
    )
    nothing = format_start_up(made, {"none of these": 5}, 8)
    assert "moves, each way, 0 B of rows" in nothing
    assert "fewer servers" in format_start_up(made, asked, 8) and "fewer servers" not in format_start_up(
        plan(criteo_specs, 1), asked, 1
    )


@pytest.mark.parametrize("asked", [{}, {"c0": None}])
def test_what_is_guessed_is_called_so(criteo_specs, asked):
    assert "a guess" in format_start_up(plan(criteo_specs, 2), asked, 2)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (64_000_064, "64.0 MB"), (999_999, "1.0 MB"), (5e18, "5000.0 PB")],
)
def test_human_bytes(value, text):
    assert human_bytes(value) == text


def test_ranges():
    assert format_ranges([3, 0, 1, 2, 7]) == "0-3 7"
    assert format_ranges([]) == ""


def test_largest_to_mean():
    assert largest_to_mean([1, 1, 4]) == 2.0
    assert largest_to_mean([0, 0]) == 1.0


def test_a_split_dense_variable_is_warned_of_with_the_reason():
    kernel = VariableSpec("kernel", (400, 400))
    split = Plan(4, (Placement.on(kernel, range(4), Routing("div", 400, 4)),))
    assert any("Over-partitioned" in text and "'kernel'" in text and "slowest" in text for text in advise(split))
    whole = advise(plan([kernel], 4))
    assert not any("Over-partitioned" in text for text in whole)


def test_tiny_shards_are_warned_of():
    advice = advise(plan([table("tiny", 80)], 8, partitioner=FixedShards(8)))
    assert any("Over-partitioned: table 'tiny' has 10 rows a shard" in text and "2 would do" in text for text in advice)
    assert not any("Over-partitioned" in text for text in advise(plan([table()], 8)))


def test_uneven_and_idle_servers_are_named():
    stock = plan([table("big"), table("small", 10)], 4, partitioner=FixedShards(1), balancer=RoundRobin())
    advice = advise(stock)
    assert any("server 0 has 4.00 times the mean in memory" in text for text in advice)
    assert any("Servers [2, 3] hold nothing: 2 servers are enough" in text for text in advice)


@pytest.mark.parametrize(
    ("specs", "kind", "ratio"),
    [
        ([table()], "sparse", "2 : 6 to 10"),
        ([VariableSpec(f"k{i}", (400, 400)) for i in range(4)], "dense", "2 : 2."),
        ([table(rows=20_000), *(VariableSpec(f"k{i}", (400, 400)) for i in range(3))], "mixed", "2 : 2 to 6"),
    ],
    ids=["sparse", "dense", "mixed"],
)
def test_ratio_of_servers_to_workers(specs, kind, ratio):
    last = advise(plan(specs, 2))[-1]
    assert f"a {kind} model" in last
    assert ratio in last


def test_too_few_and_too_many_workers_are_told_apart():
    made = plan([table()], 2)
    assert "idle" in advise(made, num_workers=2)[-1]
    assert "bottleneck" in advise(made, num_workers=50)[-1]
    assert advise(made, num_workers=8)[-1] == advise(made)[-1]


def test_dense_traffic_falls_with_rarer_exchange(criteo_specs):
    made = plan(criteo_specs, 8)
    assert any(
        "Dense variables are 86% of the bytes of a step" in text for text in advise(made, dense_exchange_every=1)
    )
    assert not any("Dense variables are" in text for text in advise(made, dense_exchange_every=20))


def test_an_mlp_beside_a_large_table_is_no_sparse_model():
    specs = [table(rows=100_000_000), VariableSpec("kernel", (4000, 4000))]
    assert "a dense model" in advise(plan(specs, 2), dense_exchange_every=1)[-1]
    assert "a sparse model" in advise(plan(specs, 2), dense_exchange_every=10_000)[-1]


def test_what_a_strategy_would_do_is_what_is_advised_on():
    made = plan([table(), VariableSpec("kernel", (400, 400))], 2)
    assert advise(made, 4) == advise(made, 4, 8) != advise(made, 4, 1)
    assert advise(made) == advise(made, None, 16)


def test_nobody_is_told_to_split_tables_where_a_kernel_is_heaviest():
    advice = advise(plan([VariableSpec("wide", (8192, 8192)), VariableSpec("narrow", (8, 8))], 4))
    uneven = [text for text in advice if text.startswith("Uneven")]
    assert len(uneven) == 1 and "'wide'" in uneven[0] and "fewer servers" in uneven[0] and "tables" not in uneven[0]


def test_slots_are_not_called_over_partitioned():
    specs = [table("small", 80), table("small/accumulator", 80)]
    line = format_start_up(plan(specs, 8, partitioner=FixedShards(8)), {"small": 512}, 8)
    assert line.count("Over-partitioned") == 1


def test_compare_names_every_change():
    before = plan([table("a"), table("b"), VariableSpec("bias", (4,))], 2)
    after = plan([table("a"), VariableSpec("bias", (4,)), table("c")], 3)
    text = compare(before, after)
    assert "- b: only in the first plan" in text
    assert "+ c: only in the second plan" in text
    assert "~ a: " in text
    assert "servers: 2 -> 3" in text
    assert compare(before, before) == "The plans are equal."


def test_a_plan_is_drawn(tmp_path, criteo_specs):
    pytest.importorskip("matplotlib")
    draw(plan(criteo_specs, 8), tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_message_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(LibraryError, match=r"tfps\[plot\]"):
        draw(Plan(1), tmp_path / "plan.png")
