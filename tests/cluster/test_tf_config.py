"""TF_CONFIG: every way to get it wrong has a message that names the key, the value and what is valid."""

import json
import pathlib

import pytest

from tfps.cluster.tf_config import TaskConfig, from_environment, parse_tf_config
from tfps.errors import ConfigError

CLUSTER = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": ["d:1"]}
TASK = {"type": "worker", "index": 1}
SAMPLE = pathlib.Path(__file__).parents[2] / "TF_CONFIG.sample.json"


def text(cluster=CLUSTER, task=TASK, **more):
    return json.dumps({"cluster": cluster, "task": task, **more})


def with_jobs(**jobs):
    return text({**CLUSTER, **jobs})


def without_job(job):
    return text({key: value for key, value in CLUSTER.items() if key != job})


def test_parses():
    config = parse_tf_config(text())
    assert (config.task_type, config.task_index, config.name, config.endpoint.dial) == ("worker", 1, "worker 1", "c:1")
    assert config.cluster.as_dict() == CLUSTER


def test_ignores_what_other_tools_add():
    assert parse_tf_config(text(environment="cloud", rpc_layer="grpc")) == parse_tf_config(text())


def test_json_round_trip():
    config = parse_tf_config(text())
    assert parse_tf_config(config.to_json()) == config


def test_sample_file():
    config = parse_tf_config(SAMPLE.read_text())
    assert (config.name, config.cluster.num_ps, config.cluster.num_workers) == ("worker 0", 2, 4)


WRONG = {
    "not json": ("{cluster", ["JSON", "line 1", "{cluster"]),
    "a list": ("[]", ["JSON object", "[]"]),
    "empty object": ("{}", ["`cluster` must be given", "[]"]),
    "no cluster": (json.dumps({"task": TASK}), ["`cluster` must be given", "task"]),
    "no task": (json.dumps({"cluster": CLUSTER}), ["`task` must be given"]),
    "cluster a list": (text(cluster=["a:1"]), ["`cluster`", "JSON object", "a:1"]),
    "task a string": (text(task="worker"), ["`task`", "JSON object", "'worker'"]),
    "no chief": (without_job("chief"), ["`cluster.chief`", "at least one"]),
    "no worker": (without_job("worker"), ["`cluster.worker`", "at least one"]),
    "no ps": (without_job("ps"), ["`cluster.ps`", "at least one"]),
    "empty ps": (with_jobs(ps=[]), ["`cluster.ps`", "at least one"]),
    "ps a string": (with_jobs(ps="d:1"), ["`cluster.ps`", "list", "'d:1'"]),
    "ps null": (with_jobs(ps=None), ["`cluster.ps`", "list", "None"]),
    "ps of numbers": (with_jobs(ps=[2222]), ["`cluster.ps[0]`", "string", "2222"]),
    "two chiefs": (with_jobs(chief=["a:1", "e:1"]), ["`cluster.chief`", "at most 1", "e:1"]),
    "no port": (with_jobs(ps=["d"]), ["`cluster.ps[0]`", "host:port", "'d'"]),
    "port too large": (with_jobs(ps=["d:65536"]), ["`cluster.ps[0]`", "1 to 65535", "65536"]),
    "port zero": (with_jobs(worker=["b:1", "c:0"]), ["`cluster.worker[1]`", "1 to 65535"]),
    "port a word": (with_jobs(ps=["d:http"]), ["`cluster.ps[0]`", "d:http"]),
    "scheme": (with_jobs(ps=["grpc://d:1"]), ["`cluster.ps[0]`", "without a scheme", "grpc://d:1"]),
    "address twice": (with_jobs(ps=["b:1"]), ["`cluster.worker[0]`", "`cluster.ps[0]`", "'b:1'"]),
    "role twice": (
        '{"cluster": {"ps": ["a:1"], "ps": ["b:1"]}, "task": {}}',
        ["once", "'ps'"],
    ),
    "evaluator job": (with_jobs(evaluator=["e:1"]), ["`cluster.evaluator`", "outside", "checkpoints"]),
    "evaluator task": (text(task={"type": "evaluator", "index": 0}), ["`task.type`", "outside"]),
    "master job": (with_jobs(master=["m:1"]), ["`cluster.master`", '"chief"']),
    "master task": (text(task={"type": "master", "index": 0}), ["`task.type`", '"chief"']),
    "unknown job": (with_jobs(server=["s:1"]), ["`cluster`", "chief, worker, ps", "'server'"]),
    "unknown task": (text(task={"type": "Worker", "index": 0}), ["`task.type`", "chief, worker, ps", "'Worker'"]),
    "task type a list": (text(task={"type": ["ps"], "index": 0}), ["`task.type`", "['ps']"]),
    "no type": (text(task={"index": 0}), ["`task.type` must be given", "index"]),
    "no index": (text(task={"type": "ps"}), ["`task.index` must be given", "type"]),
    "index too large": (text(task={"type": "worker", "index": 2}), ["`task.index`", "0 to 1", "2 addresses"]),
    "index of one": (text(task={"type": "ps", "index": 1}), ["`task.index` must be 0", "1 address."]),
    "index negative": (text(task={"type": "worker", "index": -1}), ["`task.index`", "0 to 1", "-1"]),
    "index a string": (text(task={"type": "worker", "index": "0"}), ["`task.index`", "integer", "'0'"]),
    "index true": (text(task={"type": "worker", "index": True}), ["`task.index`", "integer", "True"]),
    "index a float": (text(task={"type": "worker", "index": 0.5}), ["`task.index`", "integer", "0.5"]),
    "other rpc layer": (text(rpc_layer="http"), ["`rpc_layer`", "grpc", "'http'"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_refuses(case):
    config, words = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        parse_tf_config(config)
    message = str(caught.value)
    assert message.startswith("TF_CONFIG: ")
    assert [word for word in [*words, "Received"] if word not in message] == [], message


def test_long_values_are_cut():
    with pytest.raises(ConfigError) as caught:
        parse_tf_config("{" + "x" * 10_000)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("value", [None, "", "  \n"])
def test_environment_without_tf_config(monkeypatch, value):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if value is not None:
        monkeypatch.setenv("TF_CONFIG", value)
    assert from_environment() is None


def test_environment_is_read_at_call_time(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text())
    assert from_environment() == parse_tf_config(text())


def test_task_config_needs_a_chief():
    cluster = parse_tf_config(text()).cluster
    with pytest.raises(ConfigError, match=r"cluster\.chief"):
        TaskConfig(type(cluster)(worker=cluster.worker, ps=cluster.ps), "ps", 0)
