"""A plan made before anything is started is the one a strategy follows."""

import os
import pathlib
import subprocess
import sys

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
    devices = [shard.device for shard in value.shards] if isinstance(value, Table) else [value.device]
    assert [f"task:{server}/" in device for server, device in zip(planned.servers, devices)], variable.path
    momentum = built.optimizer._momentums[built.optimizer._get_variable_index(variable)]._value
    assert momentum.placement.servers == planned.servers, variable.path
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
        return subprocess.run(
            [sys.executable, *arguments], env=environment, check=True, timeout=600, capture_output=True, text=True
        )

    python("-m", "tfps.cli.plan", str(tmp_path / "model.py"), "--ps", "3", "--json", str(tmp_path / "plan.json"))
    assert "followed" in python("-c", TRAIN, str(tmp_path)).stdout
