"""`choose_strategy` and `explain_strategy`, from the user's function to the strategy; no strategy is started."""

import json
import logging
import os
import resource

import numpy as np
import pytest

keras = pytest.importorskip("keras")
import tfps  # noqa: E402
from tfps.errors import ConfigError, PlanError  # noqa: E402
from tfps.keras import choosing  # noqa: E402

layers = keras.layers
HOST = tfps.Hardware(cards=0, host_bytes=64e9, cores=16)


def build(rows=1000, optimizer="adagrad", compiled=True):
    def make():
        model = keras.Sequential(
            [keras.Input((3,), dtype="int64"), layers.Embedding(rows, 16), layers.Flatten(), layers.Dense(1)]
        )
        if compiled:
            model.compile(optimizer, "mse")
        return model

    return make


@pytest.fixture
def started(monkeypatch):
    """The names of the strategies that would have been started."""
    names = []
    for name in ("OneDeviceStrategy", "MirroredStrategy", "MultiWorkerMirroredStrategy", "ParameterServerStrategy"):
        monkeypatch.setattr(tfps, name, lambda *_, name=name: names.append(name) or name, raising=False)
    return names


@pytest.fixture
def tf_config(monkeypatch):
    """A function that sets TF_CONFIG."""

    def set_config(cluster, job="worker", index=0):
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": job, "index": index}}))

    monkeypatch.delenv("TF_CONFIG", raising=False)
    return set_config


@pytest.mark.parametrize(
    ("rows", "table_bytes", "choice"),
    [
        # A small table is a dense variable, as under parameter servers.
        (10**4, 0, "OneDeviceStrategy"),
        (10**6, 10**6 * 128, "OneDeviceStrategy"),
        (10**9, 10**9 * 128, "ParameterServerStrategy"),
        (10**10, 10**10 * 128, "ParameterServerStrategy"),
    ],
)
def test_a_model_of_any_size_is_explained_without_its_memory(rows, table_bytes, choice):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    explanation = tfps.explain_strategy(build(rows), 512, hardware=HOST)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert explanation.choice == choice
    footprint = explanation.footprint
    assert footprint.table_bytes == table_bytes
    assert footprint.variable_bytes == rows * 64 + 4 * 49 and footprint.slot_bytes == footprint.variable_bytes
    assert footprint.input_bytes == 512 * 3 * 8


@pytest.mark.parametrize("mode", ["Geo", "Sync"])
def test_the_mode_of_an_optimizer_is_seen(mode):
    optimizer = getattr(tfps.optimizers, mode)(keras.optimizers.Adagrad())
    explanation = tfps.explain_strategy(build(optimizer=optimizer), 512, hardware=HOST)
    assert explanation.footprint.mode == mode and explanation.choice == "ParameterServerStrategy"


def test_the_step_and_the_labels_of_a_subclassed_model():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.table, self.top = layers.Embedding(10**6, 8), layers.Dense(1)

        def call(self, inputs):
            return self.top(self.table(inputs["item"]))

    def make():
        model = Model()
        model.compile("adam", "mse")
        return model

    with pytest.raises(PlanError, match="`inputs` must be given"):
        tfps.explain_strategy(make, 8, hardware=HOST)
    explanation = tfps.explain_strategy(make, 8, inputs={"item": np.zeros((2, 5), "int64")}, hardware=HOST)
    assert explanation.footprint.table_bytes == 10**6 * 8 * 4 * 3
    assert explanation.footprint.unique_rows > 5


def test_the_choice_is_started_and_logged_once(started, tf_config, caplog):
    with caplog.at_level(logging.INFO, logger="tfps"):
        assert tfps.choose_strategy(build(), 512, hardware=tfps.Hardware(cards=0)) == "OneDeviceStrategy"
    assert started == ["OneDeviceStrategy"]
    (line,) = [record.getMessage() for record in caplog.records if "chose" in record.getMessage()]
    assert line.startswith("tfps chose OneDeviceStrategy for batches of 512 on 1 replica: the model has 128.4 kB")
    assert line.count(". ") == 0 and line.endswith(".")


def test_tf_config_without_servers_is_all_reduce(started, tf_config, monkeypatch):
    tf_config({"worker": ["a:1", "b:1"]}, index=1)
    monkeypatch.setattr(choosing, "measure_bandwidth", lambda tasks: 125e6)
    tfps.choose_strategy(build(), 512, hardware=tfps.Hardware(cards=0))
    assert started == ["MultiWorkerMirroredStrategy"]


def test_tf_config_with_servers_is_parameter_servers(started, tf_config):
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": ["d:1"]}
    tf_config(cluster, "chief")
    tfps.choose_strategy(build(10**6), 512)
    assert started == ["ParameterServerStrategy"]
    with pytest.raises(ConfigError, match="`cluster.ps` of TF_CONFIG must be left out"):
        tfps.choose_strategy(build(), 512)
    assert len(started) == 1


@pytest.mark.parametrize("job", ["ps", "worker"])
def test_a_task_that_serves_does_not_decide(started, tf_config, job):
    tf_config({"chief": ["a:1"], "worker": ["b:1"], "ps": ["d:1"]}, job)
    tfps.choose_strategy(lambda: pytest.fail("built"), 512)
    assert started == ["ParameterServerStrategy"]


def test_what_cannot_start_here_is_refused_and_can_be_explained(started, tf_config):
    hardware = tfps.Hardware(cards=0, host_bytes=16e9)
    with pytest.raises(
        ConfigError, match=r"`hosts` must be at least 10 of 16.0 GB each.*Received: 1. The choice is Param"
    ):
        tfps.choose_strategy(build(10**9), 512, hardware=hardware)
    tf_config({"worker": ["localhost:1", "localhost:2"]})
    with pytest.raises(ConfigError, match="`cluster.ps` of TF_CONFIG must list parameter servers"):
        tfps.choose_strategy(build(10**9), 512, hardware=hardware)
    assert started == []
    assert "Cannot start here" in str(tfps.explain_strategy(build(10**9), 512, hardware=hardware))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"build_model": None}, "`build_model` must be a function.*Received: None"),
        ({"build_model": 3}, "`build_model` must be a function.*Received: 3"),
        ({"build_model": int}, "`build_model` must be a function.*Received: <class 'int'>"),
        ({"build_model": keras.Sequential([])}, "`build_model` must be a function.*Received: <Sequential"),
        ({"build_model": build(compiled=False)}, "`build_model` must return a compiled model.*is not compiled"),
        ({"build_model": lambda: None}, "`build_model` must return a keras.Model. Received: None"),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1. Received: 0"),
        ({"batch_size": "512"}, "`batch_size` must be an integer of at least 1. Received: '512'"),
        ({"hardware": 4}, "`hardware` must be a tfps.Hardware, or None for what is found. Received: 4"),
        ({"hardware": tfps.Hardware(cards=1, card_bytes=1000)}, "`card_bytes` must hold one replica"),
    ],
)
def test_mistakes_are_named_before_anything_starts(arguments, message, started, tf_config):
    for function in (tfps.explain_strategy, tfps.choose_strategy):
        given = {"build_model": build(10**6), "batch_size": 512, **arguments}
        if function is tfps.choose_strategy and "card_bytes" in message:
            message = "`cards` must be at most 0, as many as TensorFlow finds. Received: 1"
        with pytest.raises(ConfigError, match=message):
            function(**given)
    assert started == []


def test_a_misspelt_variable_is_named(started, monkeypatch):
    monkeypatch.setenv("TFPS_JOIN_TIMEOUT", "5")
    for function in (tfps.explain_strategy, tfps.choose_strategy):
        with pytest.raises(ConfigError, match="must be one of .*TFPS_JOIN_TIMEOUT_S.*Received: TFPS_JOIN_TIMEOUT='5'"):
            function(build(), 512)
    assert started == []


def test_hosts_that_are_made_up_are_only_explained(started, tf_config):
    with pytest.raises(
        ConfigError, match="`hosts` must be None or 1, because TF_CONFIG names no other host. Received: 4"
    ):
        tfps.choose_strategy(build(), 512, hardware=tfps.Hardware(hosts=4, cards=0))
    assert started == []


def test_what_the_function_raises_comes_through():
    with pytest.raises(ZeroDivisionError):
        tfps.explain_strategy(lambda: 1 // 0, 512)


PROGRAM = """
import os, pickle, sys
import keras, tfps
from tensorflow.python.eager import context

class Odd(Exception):
    def __init__(self, a, b): super().__init__(f"odd {a} {b}")

def build(fail=None):
    def make():
        print("built", flush=True)
        if fail: fail()
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        model.compile("adam", "mse")
        return model
    return make

def fails(error):
    def fail(): raise error
    return fail

def start():
    print("started", context.context()._context_handle, os.getpid() == parent)
    return "strategy"

parent = os.getpid()
tfps.MultiWorkerMirroredStrategy = start
for fail in (fails(ZeroDivisionError("zero")), fails(Odd(1, 2)), lambda: os._exit(3)):
    try:
        tfps.explain_strategy(build(fail), 8)
    except Exception as error:
        print(type(error).__name__, error)
print(tfps.explain_strategy(build(), 8).footprint.variable_bytes)
print(tfps.choose_strategy(build(), 8))
"""


def test_a_task_that_all_reduces_has_not_started_the_runtime():
    from tests.programs import run

    config = json.dumps({"cluster": {"worker": ["localhost:1", "localhost:2"]}, "task": {"type": "worker", "index": 0}})
    done = run(["-c", PROGRAM], env={**os.environ, "TF_CONFIG": config}, timeout=120, check=True)
    assert done.stdout.split("\n") == [
        "built",
        "ZeroDivisionError zero",
        "built",
        "PlanError `build_model` raised Odd: odd 1 2",
        "built",
        "PlanError `build_model` must return a model, but its process ended. Received: exit status 3 (if negative, a "
        "signal).",
        "built",
        str(4 * 9 * 4),
        "built",
        "started None True",
        "strategy",
        "",
    ]
