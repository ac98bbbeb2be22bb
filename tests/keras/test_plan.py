"""A plan made before anything is started is the one a strategy follows."""

import dataclasses
import os
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests import programs
from tfps.errors import PlanError
from tfps.placement import FixedShards, GreedyBytes, VariableSpec

ROOT = pathlib.Path(__file__).parents[2]
MODEL = """
import keras

def model():
    ids = keras.Input((3,), dtype="int64")
    tables = [keras.layers.Flatten()(keras.layers.Embedding(rows, 8)(ids)) for rows in (5000, 40, 9000)]
    joined = keras.layers.Dropout(0.1)(keras.layers.Dense(16)(keras.layers.Concatenate()(tables)))
    built = keras.Model(ids, keras.layers.Dense(1)(joined))
    built.compile("adam", "mse", metrics=["mae"])
    return built
"""
TRAIN = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, tfps
from model import model
from tfps.placement.model import Plan
from tfps.embedding.table import Table
plan = Plan.load(sys.argv[1] + "/plan.json")
strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=3, num_workers=1), plan=plan)
with strategy.scope():
    built = model()
built.fit(np.zeros((8, 3), "int64"), np.zeros((8, 1)), verbose=0)
for variable in built.trainable_variables:
    value, planned = variable._value, plan.find(variable.path)
    assert value.placement.servers == planned.servers, variable.path
    assert value.placement.routing == planned.routing, variable.path
    devices = [store.device for store in value.stores] if isinstance(value, Table) else [value.device]
    assert all(f"task:{server}/" in device for server, device in zip(planned.servers, devices)), variable.path
    momentum = built.optimizer._momentums[built.optimizer._get_variable_index(variable)]._value
    assert momentum.placement.servers == planned.servers, variable.path
seeds = [variable for variable in built.variables if "seed" in variable.path]
assert seeds and all(v._value.placement.servers == plan.find(v.path).servers for v in seeds)
with strategy.scope():
    import keras
    try:
        keras.layers.Embedding(7, 2, name="not_planned").build()
    except tfps.errors.PlanError as error:
        assert "not_planned" in str(error)
    else:
        raise AssertionError("a variable that the plan does not hold was made")
print("followed")
"""


def test_a_strategy_follows_a_saved_plan(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"} | {"PYTHONPATH": str(ROOT)}

    def python(*arguments):
        return programs.run(arguments, env=environment, check=True, timeout=600)

    python(
        "-m",
        "tfps.cli.plan",
        str(tmp_path / "model.py"),
        "--ps",
        "3",
        "--dense-tables-bytes",
        "0",
        "--json",
        str(tmp_path / "plan.json"),
    )
    assert "followed" in python("-c", TRAIN, str(tmp_path)).stdout


class Rows(keras.layers.Layer):
    """Holds rows of a shape, for ids."""

    def __init__(self, rows, **kwargs):
        super().__init__(**kwargs)
        self.rows = rows

    def build(self, _):
        self.embeddings = self.add_weight((self.rows, 2), name="embeddings")

    def call(self, ids):
        return keras.ops.take(self.embeddings, ids, axis=0)


def small_model():
    ids = keras.Input((3,), dtype="int32", name="ids")
    layers = [
        keras.layers.Embedding(50, 2, name="small"),
        Rows(70, name="few"),
        Rows(120_000, name="many"),
        tfps.layers.EmbeddingBag(3000, 2, name="bag"),
    ]
    flat = [keras.layers.Flatten()(layer(ids)) for layer in layers]
    model = keras.Model(ids, keras.layers.Dense(1, name="top")(keras.layers.Concatenate()(flat)))
    model.compile("adagrad", "mse")
    return model


def test_tables_are_those_that_a_strategy_makes(strategy):
    planned = tfps.plan(small_model, strategy.num_servers, batch_size=10, dense_tables_bytes=0)
    with strategy.scope():
        made = small_model()
    # By the variables themselves: other models of the shared strategy may have had the same names.
    placed = [variable._value.placement.spec for variable in made.variables]
    planned.check([dataclasses.replace(spec, name=spec.name.split(":")[0]) for spec in placed])
    asked = {placement.spec.name: placement.spec.rows_per_step for placement in planned if placement.spec.is_table}
    assert asked == {"small/embeddings": 30, "many/embeddings": 30, "bag/embeddings": 30}
    assert {placement.spec.slots for placement in planned} == {1}


def names(model):
    return {variable.path for variable in model.trainable_variables}


def test_a_function_a_model_and_its_variables_give_one_plan():
    made = tfps.plan(small_model, 3, FixedShards(2), balancer=GreedyBytes(), routing="mod", dense_tables_bytes=0)
    assert made == tfps.plan(
        small_model(), 3, FixedShards(2), balancer=GreedyBytes(), routing="mod", dense_tables_bytes=0
    )
    specs = [placement.spec for placement in made]
    assert made == tfps.plan(specs, 3, FixedShards(2), balancer=GreedyBytes(), routing="mod", dense_tables_bytes=0)
    assert {len(placement.shards) for placement in made if placement.spec.is_table} == {2}
    assert {placement.routing.kind for placement in made if placement.routing} == {"mod"}
    unbuilt = tfps.plan(lambda: keras.Sequential([keras.layers.Dense(2)]), 1, inputs=np.zeros((1, 5), "float32"))
    assert [placement.spec.shape for placement in unbuilt] == [(5, 2), (2,)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_ps": 2.5}, "`num_ps` must be an integer.*2.5"),
        ({"num_ps": "4"}, "`num_ps` must be an integer.*'4'"),
        ({"num_ps": True}, "`num_ps` must be an integer.*True"),
        ({"balancer": GreedyBytes}, "`balancer` must be one of.*GreedyBytes"),
        ({"variable_partitioner": FixedShards}, "`variable_partitioner` must be a partitioner.*FixedShards"),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1. Received: 0"),
    ],
)
def test_what_is_no_argument_is_named(arguments, message):
    with pytest.raises(PlanError, match=message):
        tfps.plan([VariableSpec("v", (2,))], **{"num_ps": 2} | arguments)
    with pytest.raises(PlanError, match="`shards` must be an integer.*2.5"):
        FixedShards(2.5)
    with pytest.raises(PlanError, match="`shape` of variable 'v'.*Received: 5"):
        VariableSpec("v", 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"plan": "plan.json"}, r"`plan` must be a tfps.placement plan.*'plan.json'"),
        ({"plan": tfps.plan([VariableSpec("v", (2,))], 3)}, "`plan` must be for 2 servers. Received: one for 3"),
        ({"variable_partitioner": "auto"}, "`variable_partitioner` must be a function.*'auto'"),
        ({"dense_exchange_every": 1.5}, "`dense_exchange_every` must be an integer.*1.5"),
    ],
)
def test_bad_arguments_start_nothing(arguments, message):
    cluster = tfps.LocalCluster(num_ps=2, num_workers=1)
    with pytest.raises(ValueError, match=message):
        tfps.ParameterServerStrategy(cluster, **arguments)
    assert not cluster.tasks


@pytest.mark.parametrize("wrong", [3, "model", [keras.layers.Dense], [VariableSpec("v", (2,)), 3]])
def test_what_cannot_be_planned_is_told_what_can(wrong):
    with pytest.raises(PlanError, match="`model` must define.*Received: .*Valid: a function .* VariableSpec"):
        tfps.plan(wrong, 1)


@pytest.mark.parametrize("wrong", ["x", 3.5, [tf.TensorSpec([None, 3]), "x"]])
def test_inputs_without_a_shape_are_refused(wrong):
    with pytest.raises(PlanError, match="`inputs` must have a shape and a dtype. Received: .*Valid: keras.Input"):
        tfps.plan(lambda: keras.Sequential([keras.layers.Embedding(10, 2)]), 1, inputs=wrong)
