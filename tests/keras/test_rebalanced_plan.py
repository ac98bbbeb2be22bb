"""A planted hot server: its load, what the log says, and its load after a restore with the plan that moves rows."""

import gc
import json
import logging
import os
import pathlib

import keras
import numpy as np
import pytest

import tfps
from tests import programs
from tfps.cli import plan as plan_command
from tfps.errors import CheckpointError, ConfigError
from tfps.keras import checkpoints, rebalancing
from tfps.keras.rebalancing import describe_balance, placement_entry, read_placement
from tfps.monitoring.record import JobRecord
from tfps.placement import Plan, VariableSpec
from tfps.placement.planner import plan as make_plan
from tfps.placement.requested import RequestedRows

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import json, logging, sys
import keras, numpy as np, tensorflow as tf, tfps
from tfps.placement import Placement, Plan, Routing, VariableSpec

ROWS, STEPS, BATCH = 3000, 40, 64
logging.basicConfig(level=logging.INFO, stream=sys.stderr)

def build():
    ids = keras.Input((2,), dtype="int64")
    hot = keras.layers.Embedding(ROWS, 16, name="hot", embeddings_initializer="zeros")(ids)
    even = keras.layers.Embedding(ROWS, 4, name="even", embeddings_initializer="zeros")(ids)
    model = keras.Model(ids, keras.ops.sum(hot, -1) + keras.ops.sum(even, -1))
    # The gradient of each value is 1 for each lookup, so that a row ends at minus the number of its lookups.
    model.compile(keras.optimizers.SGD(1.0), lambda wanted, found: keras.ops.sum(found))
    return model

def examples(seed):
    # The lowest third of the ids, and few others.
    generator = np.random.default_rng(seed)
    low = generator.integers(0, ROWS // 3, (STEPS * BATCH, 2))
    return np.where(generator.random(low.shape) < 0.9, low, generator.integers(0, ROWS, low.shape))

def by_server(model, ids):
    # The slow twin of what steps count: the unique ids of each batch, by the rule of the placement.
    counts = [0, 0, 0]
    for batch in np.split(ids, STEPS):
        for layer in ("hot", "even"):
            placement = model.get_layer(layer).embeddings._value.placement
            for shard in placement.routing.locate(np.unique(batch))[0]:
                counts[placement.servers[shard]] += 1
    return counts

def counted(strategy):
    counts, plan = strategy.record.counts(), strategy.plan
    rows = [0, 0, 0]
    for (table, shard), number in counts.shard_rows.items():
        rows[plan.find(table).servers[shard]] += number
    return counts.steps, rows

def run(seed, plan, restore):
    strategy = tfps.ParameterServerStrategy(
        tfps.LocalCluster(num_ps=3, num_workers=2), plan=plan, dense_tables_bytes=0)
    with strategy.scope():
        model = build()
    if restore:
        tfps.checkpoint.restore(model, sys.argv[1] + "/ckpt-1")
    before = [layer.get_weights()[0].copy() for layer in (model.get_layer("hot"), model.get_layer("even"))]
    ids = examples(seed)
    data = tf.data.Dataset.from_tensor_slices((ids, np.zeros((len(ids), 2), np.float32))).batch(BATCH)
    model.fit(data, verbose=0)
    steps, rows = counted(strategy)
    tfps.checkpoint.save(model, f"{sys.argv[1]}/ckpt-{seed}")
    after = [layer.get_weights()[0] for layer in (model.get_layer("hot"), model.get_layer("even"))]
    return model, dict(steps=steps, rows=rows, twin=by_server(model, ids)), before, after, ids

assert tfps.checkpoint.rebalanced_plan(sys.argv[1]) is None
spec = lambda name, width: VariableSpec(name + "/embeddings", (ROWS, width), is_table=True)
planted = Plan(3, (
    Placement.on(spec("hot", 16), (0, 1, 2), Routing("div", ROWS, 3)),
    Placement.on(spec("even", 4), (0, 1, 2), Routing("hash", ROWS, 3)),
))
_, first, _, after_first, ids_first = run(1, planted, False)
plan = tfps.checkpoint.rebalanced_plan(sys.argv[1])
model, second, before, after, ids_second = run(2, plan, True)
assert all(np.array_equal(old, new) for old, new in zip(after_first, before))
lookups = np.bincount(np.concatenate([ids_first, ids_second]).ravel(), minlength=ROWS)
exact = all(np.array_equal(values, np.repeat(-lookups[:, None], values.shape[1], 1)) for values in after)
kinds = [model.get_layer(name).embeddings._value.placement.routing.kind for name in ("hot", "even")]
# The next plan keeps the placement that was changed, and another number of servers gets one of its own.
again = tfps.checkpoint.rebalanced_plan(sys.argv[1])
five = tfps.checkpoint.rebalanced_plan(sys.argv[1] + "/ckpt-1", num_servers=5)
print(json.dumps(dict(first=first, second=second, exact=exact, kinds=kinds, iterations=int(model.optimizer.iterations),
    kept=again == plan, five=[five.num_servers, sorted(set(five.find("hot/embeddings").servers))])))
"""


@pytest.mark.slow
def test_a_hot_server_is_relieved_at_the_next_restore(tmp_path, capsys):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"} | {"PYTHONPATH": str(ROOT)}
    ended = programs.run(["-c", PROGRAM, str(tmp_path)], env=environment, timeout=600)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    for run in (found["first"], found["second"]):
        assert run["steps"] == 40
        assert run["rows"] == run["twin"]
    assert found["first"]["rows"][0] > 1.5 * sum(found["first"]["rows"]) / 3
    assert max(found["second"]["rows"]) < 1.1 * sum(found["second"]["rows"]) / 3
    assert found["exact"] and found["iterations"] == 80
    assert found["kinds"] == ["hash", "hash"]
    assert found["kept"] and found["five"] == [5, [0, 1, 2, 3, 4]]
    assert "Hot server: server 0 has" in ended.stderr and "'hot/embeddings' from div" in ended.stderr
    # The command says the same of the first checkpoint, and that the second has no hot server.
    for checkpoint, said in (("ckpt-1", "Hot server: server 0 has"), ("ckpt-2", "No server is hot: in 40 steps")):
        assert plan_command.main([str(tmp_path / checkpoint), "--json", str(tmp_path / "plan.json")]) == 0
        assert capsys.readouterr().out.startswith(said)
        assert Plan.load(tmp_path / "plan.json").find("hot/embeddings").routing.kind == "hash"


def test_a_hot_server_is_told_of_once_and_its_rows_get_more_shards(strategy, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(strategy, "record", JobRecord())
    with strategy.scope():
        ids = keras.Input((4,), dtype="int64")
        model = keras.Model(ids, keras.layers.Flatten()(keras.layers.Embedding(4000, 8, name="planted")(ids)))
        model.compile("sgd", "mse")
    placement = model.get_layer("planted").embeddings._value.placement
    on_first = np.arange(4000)[placement.routing.locate(np.arange(4000))[0] == 0]
    drawn = np.random.default_rng(0).choice(on_first, (64 * 16, 4))
    with caplog.at_level(logging.WARNING, "tfps"):
        model.fit(drawn, np.zeros((len(drawn), 32)), batch_size=64, epochs=2, verbose=0)
    said = [record.getMessage() for record in caplog.records if "Hot server" in record.getMessage()]
    name = placement.spec.name
    assert len(said) == 1 and f"Hot server: server {placement.servers[0]} has 100%" in said[0] and name in said[0]
    tfps.checkpoint.save(model, tmp_path / "ckpt-1")
    new = tfps.checkpoint.rebalanced_plan(tmp_path).find(name)
    # A checkpoint may have any name.
    best = (tmp_path / "ckpt-1").rename(tmp_path / "best")
    assert tfps.checkpoint.rebalanced_plan(best).find(name) == new
    best.rename(tmp_path / "ckpt-1")
    assert len(new.shards) == 9 and new.routing.kind == "hash"
    counts = np.bincount([new.servers[shard] for shard in new.routing.locate(np.unique(drawn))[0]])
    assert max(counts) < 1.25 * np.mean(counts)
    assert "Hot server" in describe_balance(*read_placement(tmp_path))


def test_a_plan_that_is_broken_is_named(strategy, tmp_path, monkeypatch):
    monkeypatch.setattr(rebalancing, "placement_entry", lambda strategy: {rebalancing.ENTRY: {"plan": 1}})
    monkeypatch.setattr(checkpoints, "placement_entry", rebalancing.placement_entry)
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    tfps.checkpoint.save(model, tmp_path / "ckpt-1")
    with pytest.raises(CheckpointError, match=r"ckpt-1 is broken: the plan that it keeps cannot be read"):
        tfps.checkpoint.rebalanced_plan(tmp_path / "ckpt-1")
    assert plan_command.main([str(tmp_path)]) == 1


def test_a_checkpoint_without_a_plan_has_none(tmp_path, capsys):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    tfps.checkpoint.save(model, tmp_path / "ckpt-1")
    assert tfps.checkpoint.rebalanced_plan(tmp_path) is None
    assert plan_command.main([str(tmp_path)]) == 1
    assert "a folder must have a checkpoint that keeps a plan" in capsys.readouterr().err


def test_of_one_server_none_was_hot():
    spec = VariableSpec("a", (100, 4), is_table=True)
    said = describe_balance(make_plan([spec], 1), RequestedRows(40, {}))
    assert said.startswith("There was one server")
    assert describe_balance(make_plan([spec], 2), RequestedRows(0, {})) == "No step has requested rows yet."


def test_no_checkpoint_has_no_plan(tmp_path):
    assert tfps.checkpoint.rebalanced_plan(tmp_path / "run") is None
    with pytest.raises(ConfigError, match=r"`num_servers` must be .*at least 1"):
        tfps.checkpoint.rebalanced_plan(tmp_path / "run", num_servers=0)


def test_a_checkpoint_keeps_nothing_of_models_that_are_gone(strategy):
    def make():
        with strategy.scope():
            table = keras.layers.Embedding(100_000, 16, name="soon_gone")
            table.build((None,))
        return table

    def kept():
        return [one["name"] for one in placement_entry(strategy)["placement"]["plan"]["variables"]]

    table = make()
    name = table.embeddings._value.name
    assert name in kept()
    del table
    gc.collect()
    assert name not in kept()
