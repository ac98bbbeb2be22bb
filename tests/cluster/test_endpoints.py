"""Endpoints: the two sides of an address; and that job and device names are spelled in one place."""

import ast
import socket
from pathlib import Path

import pytest

from tests.cluster.test_reach import serving
from tfps import jobs
from tfps.cluster import devices, reach
from tfps.cluster.endpoints import Endpoint
from tfps.cluster.spec import ClusterSpec
from tfps.cluster.tf_config import TaskConfig, parse_tf_config
from tfps.errors import ClusterTimeoutError

PACKAGE = Path(__file__).parents[2] / "tfps"
# Who may spell a job or a device; the flags of a command line are named like jobs.
SPELLED_IN = ("jobs.py", "cluster/devices.py", "cli/launch.py", "cli/plan.py")
# A field of a file, a flag or a label that has the number of a worker.
HAS_WORKERS = ("cli/dump.py", "debug/nan_file.py", "debug/step_file.py", "monitoring/metric_families.py")


def test_an_address_in_tf_config_is_both_sides():
    spec = ClusterSpec(worker=("a:1",), ps=("b:2",), chief=("c:3",))
    config = parse_tf_config(TaskConfig(spec, jobs.WORKER, 0).to_json())
    assert config.endpoint == Endpoint(dial="a:1", listen="a:1") and config.cluster == spec


def test_a_cluster_with_two_sides_shows_and_saves_where_others_dial():
    behind = Endpoint(dial="service:80", listen="0.0.0.0:2222")
    spec = ClusterSpec(worker=(behind,), ps=(Endpoint(dial="other:80", listen="0.0.0.0:2222"),))
    assert spec.as_dict() == {"worker": ["service:80"], "ps": ["other:80"]}
    assert spec.task_at("service:80") == (jobs.WORKER, 0) and spec.task_at("0.0.0.0:2222") is None
    assert str(behind) == "service:80"


def test_the_chief_dials_where_a_task_is_dialled_and_not_where_it_listens():
    with serving() as listener, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        there, nowhere = (f"127.0.0.1:{one.getsockname()[1]}" for one in (listener, closed))
        server = Endpoint(dial=there, listen=nowhere)
        listens = Endpoint(dial=nowhere, listen=there)
        assert reach.find_unreachable(ClusterSpec(worker=(listens,), ps=(server,))).keys() == {f"worker 0 at {nowhere}"}
        with pytest.raises(ClusterTimeoutError, match=nowhere):
            reach.wait_for_servers(ClusterSpec(worker=(listens,), ps=(server,)), timeout_s=0.1)


def test_a_task_is_found_by_its_device_in_a_text():
    text = f"from remote target {devices.task_device(jobs.PS, 3)} while calling"
    assert devices.find_task(text) == (jobs.PS, 3)
    assert devices.find_task("from remote target /job:chief/task:0") is None


def constants(path):
    """The strings of a module but its docstrings, those of Literal types and those in parts of longer names."""
    tree = ast.parse(path.read_text())
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "Literal":
            skipped |= {id(inner) for inner in ast.walk(node.slice)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped
    ]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_jobs_and_devices_are_spelled_in_one_place(path):
    if path.relative_to(PACKAGE).as_posix() in SPELLED_IN:
        return
    known = {jobs.WORKER} if path.relative_to(PACKAGE).as_posix() in HAS_WORKERS else set()
    spelled = [text for text in constants(path) if text in {*jobs.JOBS} - known or "/job:" in text or "CPU:0" in text]
    assert not spelled, f"take it from tfps.jobs or tfps.cluster.devices: {spelled}"
