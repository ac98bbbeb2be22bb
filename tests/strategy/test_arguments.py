"""What a user gives a strategy or a cluster: anything of the wrong type is refused before something is started."""

import math
import pathlib

import numpy as np
import pytest

import tfps
from tfps.cluster.local import LocalCluster
from tfps.errors import ConfigError, TfpsError
from tfps.strategy import strategy
from tfps.strategy.arguments import Arguments

DEFAULTS = {
    "cluster": None,
    "variable_partitioner": None,
    "plan": None,
    "dense_exchange_every": None,
    "overlap_dense_exchange": False,
    "prefetch_lookups": False,
    "closure_timeout_s": 600.0,
    "dense_tables_bytes": 0,
    "repeated_ids": "sum",
    "dense": "exchange",
    "devices_per_worker": None,
    "embeddings_dtype": "float32",
    "slots_dtype": "float32",
}
WRONG = {
    "cluster": ["127.0.0.1:2222", 2, LocalCluster, {"ps": []}],
    "variable_partitioner": ["hash", 4, True],
    "plan": ["plan.json", {}, 3],
    "dense_exchange_every": [0, -1, 1.5, "4", True, math.nan],
    "overlap_dense_exchange": ["no", 1, None, 0.0],
    "prefetch_lookups": ["no", 1, None, []],
    "closure_timeout_s": [0, -1, "600", None, True, math.nan, math.inf],
    "dense_tables_bytes": [-1, 1.5, "4", True, None, math.nan],
    "repeated_ids": ["mean", "", None, 1, True],
    "dense": ["reduce", "", None, 1, True],
    "devices_per_worker": [0, -1, 1.5, "2", True, math.nan, 99],
    "embeddings_dtype": ["float16", "bf16", None, 16, True],
    "slots_dtype": ["float16", "int8", None, 2, True],
    "cache_rows": [-1, 1.5, "4", True, None, math.nan],
    "max_staleness": [-1, 1.5, "4", True, None, math.nan],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_strategy_names_the_wrong_argument(name, value):
    with pytest.raises(ConfigError, match=rf"^`{name}` must be .*Received: "):
        tfps.ParameterServerStrategy(**{name: value})


def test_numbers_of_numpy_come_out_as_those_of_python():
    given = {"dense_exchange_every": np.int64(3), "prefetch_lookups": np.True_, "closure_timeout_s": np.float32(2)}
    arguments = Arguments(**DEFAULTS | given)
    assert (arguments.dense_exchange_every, arguments.prefetch_lookups, arguments.closure_timeout_s) == (3, True, 2.0)
    kinds = (type(arguments.dense_exchange_every), type(arguments.prefetch_lookups), type(arguments.closure_timeout_s))
    assert kinds == (int, bool, float)


CLUSTER_WRONG = {
    "num_ps": [0, -1, 1.5, "2", True, None, math.nan],
    "num_workers": [0, -1, 1.5, "2", True, None, [2]],
    "start_timeout_s": [0, -1, "x", True, math.nan, math.inf, [1]],
    "ps_threads": [0, -1, 1.5, "2", True],
    "worker_threads": [0, -1, 1.5, "2", True],
    "log_dir": ["", 3, True, ["logs"]],
    "worker_devices": [0, -1, 1.5, "2", True, None],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in CLUSTER_WRONG.items() for value in values]
)
def test_a_cluster_names_the_wrong_argument(name, value):
    with pytest.raises(ConfigError, match=rf"^`{name}` must be .*Received: "):
        LocalCluster(**{name: value})


def test_a_cluster_takes_numbers_of_numpy_and_paths():
    cluster = LocalCluster(np.int64(1), np.int32(3), start_timeout_s=np.float64(5), log_dir=pathlib.Path("logs"))
    assert (cluster.num_ps, cluster.num_workers) == (1, 3)
    assert type(cluster.num_workers) is int


@pytest.mark.parametrize("name", ["TFPS_START_TIMEOUT_S", "TFPS_JOIN_TIMEOUT_S", "TFPS_DISABLE_OPS"])
def test_a_variable_of_the_environment_is_checked_before_anything_starts(name, monkeypatch):
    monkeypatch.setenv(name, "soon")
    with pytest.raises(TfpsError, match=f"{name} must be .*'soon'"):
        tfps.ParameterServerStrategy()


def test_a_cluster_and_tf_config_are_refused_together(monkeypatch):
    tasks = {"chief": ["127.0.0.1:1"], "ps": ["127.0.0.1:2"], "worker": ["127.0.0.1:3"]}
    monkeypatch.setenv("TF_CONFIG", str({"cluster": tasks, "task": {"type": "chief", "index": 0}}).replace("'", '"'))
    with pytest.raises(ConfigError, match="`cluster` must be None if TF_CONFIG is set"):
        tfps.ParameterServerStrategy(LocalCluster())


def test_a_rank_finds_its_role_unless_a_cluster_is_given(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "6")
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    with pytest.raises(ConfigError, match="`SLURM_PROCID` must be set"):
        tfps.ParameterServerStrategy()
    started = []
    monkeypatch.setattr(strategy, "start", lambda cluster, config, join: started.append(config) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tfps.ParameterServerStrategy(LocalCluster())
    assert started == [None]
