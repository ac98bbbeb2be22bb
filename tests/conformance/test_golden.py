"""Files that an earlier version saved are read with the values that it had. See `make_golden.py`, which made them."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.conformance import golden_model, make_golden, models
from tests.conformance.golden_model import GOLDEN
from tests.conformance.matrix import FORMATS, scope_of
from tfps.embedding.table import Table
from tfps.placement.routing import Routing

EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
STATE = {f"{number} {path}": np.array(value) for number, (path, value) in enumerate(EXPECTED["state"])}
CONFIGS = json.loads((GOLDEN / "optimizers.json").read_text())


@pytest.fixture(params=["on servers", "in plain Keras"])
def where(request):
    """The strategy, or None for plain Keras."""
    return request.getfixturevalue("strategy") if request.param == "on servers" else None


@pytest.mark.parametrize("form", FORMATS)
def test_a_saved_model_is_read_with_its_exact_values(where, form):
    if form == "keras file" and "quantization_config" not in keras.layers.Embedding(1, 1).get_config():
        pytest.skip("this Keras does not read a model that Keras 3.15 has saved")
    with scope_of(where):
        model = FORMATS[form].load(GOLDEN, golden_model.build)
    models.assert_equal(models.state(model), STATE)
    tables = [v for v in [*model.variables, *model.optimizer.variables] if isinstance(v._value, Table)]
    assert len(tables) == (4 if where else 0)
    np.testing.assert_allclose(model.predict(golden_model.IDS, verbose=0), EXPECTED["predicted"], rtol=1e-5)
    model.train_on_batch(golden_model.IDS[:8], golden_model.LABELS[:8])
    assert int(model.optimizer.iterations) == 5  # four steps before it was saved, and this one


def test_a_checkpoint_names_its_tables_as_one_tensor_each():
    """Whatever the number of servers: whoever reads a checkpoint without tfps finds whole tables."""
    shapes = dict(tf.train.list_variables(str(GOLDEN / "checkpoint")))
    assert sorted(map(tuple, shapes.values())) == sorted([*(value.shape for value in STATE.values()), ()])


def test_a_plan_of_format_1_is_read():
    text = (GOLDEN / "plan.json").read_text()
    assert json.loads(text)["format"] == 1
    plan = tfps.placement.Plan.load(GOLDEN / "plan.json")
    assert plan.num_servers == 2
    assert [(p.spec.name, p.spec.shape, p.spec.slots, p.spec.is_table) for p in plan] == [
        ("wide/embeddings", (40, 4), 1, True),
        ("narrow/embeddings", (40, 1), 1, True),
        ("top/kernel", (9, 1), 1, False),
        ("top/bias", (1,), 1, False),
    ]
    for placement in plan:
        if placement.spec.is_table:
            assert sorted(placement.servers) == [0, 1] and placement.routing == Routing("hash", 40, 2)
    assert tfps.placement.Plan.from_json(plan.to_json()) == plan


def test_rows_of_format_1_are_where_they_were():
    """A plan says how rows are routed by the name of the routing alone, so the name must keep its meaning."""
    plan = tfps.placement.Plan.load(GOLDEN / "plan.json")
    shards, local = plan.find("wide/embeddings").routing.locate(np.arange(40))
    np.testing.assert_array_equal(shards, EXPECTED["routed"]["shards"])
    np.testing.assert_array_equal(local, EXPECTED["routed"]["local"])


@pytest.mark.parametrize("name", CONFIGS)
def test_an_optimizer_is_read_from_its_configuration(name):
    optimizer, expected = keras.optimizers.deserialize(CONFIGS[name]), make_golden.optimizers()[name]
    assert type(optimizer) is type(expected)
    # A new version may add settings, but those that were saved keep their names and values.
    config = optimizer.get_config()
    assert {key: config[key] for key in CONFIGS[name]["config"]} == CONFIGS[name]["config"]
    assert config == expected.get_config() | {"name": config["name"]}
