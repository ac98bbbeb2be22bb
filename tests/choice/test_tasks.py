"""The processes that others have started, from TF_CONFIG with and without parameter servers."""

import json

import pytest

from tfps.choice.tasks import find_tasks, parse_tasks
from tfps.errors import ConfigError


def config(cluster, job="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})


def test_workers_alone():
    tasks = parse_tasks(config({"worker": ["a:1", "b:1", "b:2"]}, index=2))
    assert (tasks.hosts, tasks.workers, tasks.servers) == (2, 3, 0)
    assert not tasks.is_server
    assert tasks.addresses == ("a:1", "b:1", "b:2") and tasks.address == "b:2"


def test_a_chief_computes_unless_there_are_servers():
    workers = {"chief": ["a:1"], "worker": ["b:1"]}
    assert parse_tasks(config(workers)).workers == 2
    assert [parse_tasks(config(workers, job)).address for job in ("chief", "worker")] == ["a:1", "b:1"]
    tasks = parse_tasks(config({**workers, "ps": ["b:2"]}))
    assert (tasks.workers, tasks.servers, tasks.server_hosts) == (1, 1, 0)
    assert tasks.is_server
    assert not parse_tasks(config({**workers, "ps": ["b:2"]}, "chief")).is_server


def test_servers_on_hosts_of_their_own():
    tasks = parse_tasks(config({"chief": ["a:1"], "worker": ["b:1"], "ps": ["c:1", "d:1", "d:2"]}, "chief"))
    assert tasks.server_hosts == 2


def test_localhost_is_one_host():
    assert parse_tasks(config({"worker": ["localhost:1", "127.0.0.1:2"]})).hosts == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it must be JSON"),
        ("[1]", "must be a JSON object"),
        ("{}", "`cluster` must be given"),
        (config([]), "`cluster` must be a JSON object"),
        (config({"worker": ["a:1"], "wroker": ["b:1"]}), "Received: 'wroker'"),
        (config({"worker": ["a:1"], "evaluator": ["b:1"]}), "evaluator"),
        (config({"worker": "a:1"}), "`cluster.worker` must be a list"),
        (config({"worker": ["a"]}), r"`cluster.worker\[0\]` must be"),
        (config({"worker": []}), "`task.index` must be"),
        (config({"worker": ["a:1", "a:1"]}), "no address twice"),
        (config({"worker": ["a:1"]}, index=1), "`task.index` must be"),
        (config({"worker": ["a:1"]}, "chief"), "`task.index` must be"),
        (config({"worker": ["a:1"]}, index="0"), "`task.index` must be"),
        (config({"worker": ["a:1"]}, ["worker"]), "`task.type` must be"),
        # With servers, what the strategy itself would refuse.
        (config({"worker": ["a:1"], "ps": ["b:1"]}), "`cluster.chief`"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_tasks(text)
    assert str(caught.value).startswith("TF_CONFIG")


def test_it_is_read_from_the_environment(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert find_tasks() is None
    monkeypatch.setenv("TF_CONFIG", config({"worker": ["a:1", "b:1"]}))
    assert find_tasks().source == "TF_CONFIG"


def test_the_tasks_of_a_process_manager(monkeypatch):
    from tfps.choice import tasks
    from tfps.cluster.environments.ranks import Ranks

    monkeypatch.delenv("TF_CONFIG", raising=False)
    for rank, serves in ((0, False), (3, True)):
        ranks = Ranks("SLURM", rank, 7, "SLURM_STEP_NUM_TASKS", lambda: pytest.fail("sent"), ("a", "b"), "a")
        monkeypatch.setattr(tasks, "read_ranks", lambda ranks=ranks: ranks)
        found = find_tasks()
        assert (found.source, found.hosts, found.workers, found.servers, found.is_server) == ("SLURM", 2, 4, 2, serves)
