"""ClusterSpec: what it holds and what it refuses."""

import pytest

from tfps.cluster.endpoints import Endpoint, split_address
from tfps.cluster.spec import ClusterSpec
from tfps.errors import ConfigError

SPEC = ClusterSpec(worker=("a:1", "b:2"), ps=("c:3",), chief=("d:4",))


def test_counts_and_dict():
    assert (SPEC.num_workers, SPEC.num_ps) == (2, 1)
    assert SPEC.as_dict() == {"chief": ["d:4"], "worker": ["a:1", "b:2"], "ps": ["c:3"]}
    assert list(SPEC.as_dict()) == ["chief", "worker", "ps"]


def test_embedded_spec_has_no_chief():
    assert "chief" not in ClusterSpec(worker=("a:1",), ps=("b:2",)).as_dict()


def test_servers_lists_ps_then_workers():
    assert list(SPEC.servers()) == [
        ("ps", 0, Endpoint.at("c:3")),
        ("worker", 0, Endpoint.at("a:1")),
        ("worker", 1, Endpoint.at("b:2")),
    ]


def test_task_at_knows_localhost_by_both_names():
    spec = ClusterSpec(worker=("localhost:1",), ps=("127.0.0.1:2",))
    assert spec.task_at("127.0.0.1:1") == ("worker", 0)
    assert spec.task_at("127.0.0.1:3") is None


@pytest.mark.parametrize(
    ("address", "parts"), [("host:80", ("host", 80)), ("[::1]:2222", ("::1", 2222)), ("10.0.0.7:1", ("10.0.0.7", 1))]
)
def test_split_address(address, parts):
    assert split_address(address) == parts


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ({"worker": (), "ps": ("a:1",)}, ["cluster.worker", "at least 1"]),
        ({"worker": ("a:1",), "ps": ()}, ["cluster.ps", "at least 1"]),
        ({"worker": ("a:1",), "ps": ("b:1",), "chief": ("c:1", "d:1")}, ["cluster.chief", "at most 1"]),
        ({"worker": ("a:1",), "ps": ("a:1",)}, ["cluster.worker[0]", "cluster.ps[0]", "'a:1'"]),
        ({"worker": ("localhost:1", "127.0.0.1:1"), "ps": ("a:1",)}, ["cluster.worker[0]", "cluster.worker[1]"]),
        ({"worker": ("A:1",), "ps": ("a:1",)}, ["its own address"]),
    ],
)
def test_refuses(jobs, words):
    with pytest.raises(ConfigError) as caught:
        ClusterSpec(**jobs)
    assert all(word in str(caught.value) for word in words + ["Received:"])


@pytest.mark.parametrize(
    "address", ["a", "a:", ":1", "a:0", "a:65536", "a:-1", "a:x", "http://a:1", "a:1/b", "::1:2", "a b:1", 7, None]
)
def test_refuses_address(address):
    with pytest.raises(ConfigError, match=r"`cluster\.ps\[0\]`.*Received:"):
        ClusterSpec(worker=("w:1",), ps=(address,))
