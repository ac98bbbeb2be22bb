"""Specs, placements and plans as values: rules, JSON, comparison, completeness."""

import json

import pytest

from tfps.errors import PlanError
from tfps.placement.model import Placement, Plan, Shard
from tfps.placement.planner import plan
from tfps.placement.routing import Routing
from tfps.placement.spec import VariableSpec

TABLE = VariableSpec("table", (10, 4), "float16", slots=2, rows_per_step=7, is_table=True)
BIAS = VariableSpec("bias", (3,))


def test_bytes_of_a_spec():
    assert (TABLE.nbytes, TABLE.bytes_with_slots, TABLE.row_bytes, TABLE.rows) == (80, 240, 8, 10)
    scalar = VariableSpec("step", (), "int64")
    assert (scalar.nbytes, scalar.row_bytes, scalar.rows) == (8, 8, 1)
    assert VariableSpec("half", (2, 2), "bfloat16").nbytes == 8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "", "shape": (1,)}, "`name` must be a string that is not empty"),
        ({"name": "v", "shape": (None, 2)}, "`shape` of variable 'v' .*None, 2"),
        ({"name": "v", "shape": (-1,)}, "`shape` of variable 'v' .*-1"),
        ({"name": "v", "shape": (5,), "is_table": True}, r"`shape` of variable 'v' must be \[rows, width, ...\]"),
        ({"name": "v", "shape": (0, 5), "is_table": True}, "`shape` of variable 'v' .*at least one row"),
        ({"name": "v", "shape": (1,), "dtype": "string"}, "`dtype` must name a type.*'string'"),
        ({"name": "v", "shape": (1,), "dtype": "str"}, "`dtype` must name a type.*'str'"),
        (
            {"name": "v", "shape": (1,), "slots": -1},
            "`slots` of variable 'v' must be an integer of at least 0. Received: -1",
        ),
        ({"name": "v", "shape": (1,), "rows_per_step": -2}, "`rows_per_step` of variable 'v' .*Received: -2"),
        ({"name": "v", "shape": (1,), "rows_per_step": float("nan")}, "`rows_per_step` .*Received: nan"),
    ],
)
def test_wrong_specs_are_named(fields, message):
    with pytest.raises(PlanError, match=message):
        VariableSpec(**fields)


@pytest.mark.parametrize(
    "shards",
    [
        (Shard(0, 0, 5),),
        (Shard(0, 0, 5), Shard(1, 1, 4)),
        (Shard(0, 1, 5), Shard(1, 0, 5)),
        (Shard(0, 0, 5), Shard(1, 1, 5), Shard(1, 2, 5)),
    ],
)
def test_a_placement_holds_every_row_once(shards):
    with pytest.raises(PlanError, match=r"'table' must hold every row once.*\[5, 5\]. Received"):
        Placement(TABLE, shards, Routing("mod", 10, 2))


def test_routing_and_servers_must_fit_the_variable():
    with pytest.raises(PlanError, match="'table' must route 10 rows. Received: 11"):
        Placement.on(TABLE, [0], Routing("mod", 11, 1))
    with pytest.raises(PlanError, match=r"'table' must name 2 servers. Received: \[0\]"):
        Placement.on(TABLE, [0], Routing("mod", 10, 2))


def test_a_plan_has_no_double_and_no_unknown_server():
    bias = Placement.on(BIAS, [1], None)
    with pytest.raises(PlanError, match="every variable once. Received: 'bias' twice"):
        Plan(2, (bias, bias))
    with pytest.raises(PlanError, match=r"'bias' must be on servers 0 to 0. Received: \(1,\)"):
        Plan(1, (bias,))


def test_check_names_what_is_missing_foreign_or_different():
    made = plan([TABLE, BIAS], 2)
    made.check([BIAS, TABLE])
    with pytest.raises(PlanError, match=r"Missing: \['kernel'\]"):
        made.check([TABLE, BIAS, VariableSpec("kernel", (2, 2))])
    with pytest.raises(PlanError, match=r"Not of the model: \['bias'\]"):
        made.check([TABLE])
    with pytest.raises(PlanError, match="`shape` of variable 'bias' must be as planned"):
        made.check([TABLE, VariableSpec("bias", (4,))])


@pytest.mark.parametrize("seed", range(5))
def test_json_round_trip(seed, random_specs, tmp_path):
    made = plan(random_specs(seed), 3)
    assert Plan.from_json(made.to_json()) == made
    made.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == made


def test_plans_compare_by_value():
    assert plan([TABLE, BIAS], 2) == plan([TABLE, BIAS], 2)
    assert plan([TABLE, BIAS], 2) != plan([TABLE, BIAS], 3)
    assert hash(plan([TABLE], 2)) == hash(plan([TABLE], 2))


def _edited(change):
    data = json.loads(plan([TABLE, BIAS], 2).to_json())
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "must be a plan that `save` wrote. Received: 'not json'"),
        ("[1]", "must be a plan that `save` wrote"),
        ("{}", "must be a plan that `save` wrote.*'format'"),
        (_edited(lambda data: data.update(format=99)), "`format` of a saved plan must be 1. Received: 99"),
        (_edited(lambda data: data.update(num_servers=0)), "`num_servers` must be an integer of at least 1"),
        (_edited(lambda data: data.update(num_servers=2.0)), "`num_servers` must be an integer"),
        (_edited(lambda data: data["variables"][0].update(name=5)), "`name` must be a string"),
        (_edited(lambda data: data["variables"][0].update(is_table="yes")), "`is_table`.*True or False"),
        (
            _edited(lambda data: data["variables"][0].update(servers=[1.0])),
            "`server` must be an integer of at least 0. Received: 1.0",
        ),
        (_edited(lambda data: data.update(num_servers="2")), "`num_servers` must be an integer"),
        (_edited(lambda data: data["variables"][0].pop("routing")), "must be a plan that `save` wrote.*'routing'"),
        (_edited(lambda data: data["variables"][0].update(colour=1)), "must be a plan that `save` wrote.*colour"),
        (_edited(lambda data: data["variables"][0]["routing"].update(rows=9)), "must route 10 rows. Received: 9"),
        (_edited(lambda data: data["variables"][1].update(servers=[5])), "must be on servers 0 to 1"),
        (_edited(lambda data: data["variables"].append(data["variables"][0])), "Received: 'table' twice"),
    ],
)
def test_broken_files_are_refused(text, message):
    with pytest.raises(PlanError, match=message):
        Plan.from_json(text)


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(PlanError, match="`path` must be a readable plan. Received: .*none.json"):
        Plan.load(tmp_path / "none.json")


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "plan.json").write_bytes(bytes([0x80, 0xFF, 0x00]))
    with pytest.raises(PlanError, match="`path` must be a readable plan. Received: .*plan.json"):
        Plan.load(tmp_path / "plan.json")


def test_find_lists_what_is_valid():
    made = plan([TABLE, BIAS], 2)
    assert made.find("bias").spec == BIAS
    with pytest.raises(PlanError, match=r"Received: 'tabel'. Valid: \['table', 'bias'\]"):
        made.find("tabel")


def test_loads_of_a_plan_small_enough_to_count_by_hand():
    made = Plan(2, (Placement.on(TABLE, [1, 0], Routing("div", 10, 2)), Placement.on(BIAS, [1], None)))
    first, second = made.loads()
    assert (first.nbytes, first.bytes_with_slots, first.dense_bytes_per_step) == (40, 120, 0)
    assert (second.nbytes, second.bytes_with_slots, second.dense_bytes_per_step) == (52, 132, 12)
    assert first.lookups_per_step + second.lookups_per_step == pytest.approx(7)
    assert second.lookups_per_step > first.lookups_per_step  # it holds rows 0 to 4, the hot ones
    assert second.row_bytes_per_step == second.rows_per_step * 8
