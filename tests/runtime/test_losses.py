"""What a failed call means, without a cluster: a lost worker, a connection that broke, a server that is gone."""

import pytest
import tensorflow as tf

from tfps import jobs
from tfps.cluster import reach
from tfps.cluster.spec import ClusterSpec
from tfps.errors import ClusterTimeoutError, ServerLostError
from tfps.runtime import losses as module
from tfps.runtime.gate import Gate
from tfps.runtime.losses import Losses, WorkerLostError
from tfps.runtime.rejoining import Rejoining

SPEC = ClusterSpec(worker=("127.0.0.1:3001", "127.0.0.1:3002"), ps=("127.0.0.1:2001",), chief=("127.0.0.1:1001",))


def failure(kind, job, index, text):
    return kind(
        None, None, f"{text}\nAdditional GRPC error information from remote target /job:{job}/replica:0/task:{index}"
    )


@pytest.fixture
def losses(monkeypatch):
    monkeypatch.setattr(module, "_SETTLE_S", 0.0)
    monkeypatch.setattr(module, "_LOOK_S", 0.0)
    return Losses(2, SPEC)


def test_a_lost_worker_may_come_back(losses):
    ours = losses.translate(1, failure(tf.errors.UnavailableError, "worker", 1, "Socket closed"))
    assert isinstance(ours, WorkerLostError) and losses.lost == {1} and losses.host_of(1) == 0
    # Whatever else fails on it meanwhile is the same loss.
    assert isinstance(losses.translate(1, tf.errors.InternalError(None, None, "x")), WorkerLostError)
    assert losses.last[0] == 1 and "Socket closed" in losses.reason(1)
    assert losses.restore(1) >= 0 and losses.host_of(1) == 1


@pytest.mark.parametrize("kind", [tf.errors.UnavailableError, tf.errors.CancelledError], ids=["closed", "cancelled"])
def test_a_call_is_repeated_if_all_servers_answer_in_the_end(losses, monkeypatch, kind):
    answers = iter([False, False, True])
    monkeypatch.setattr(reach, "answers", lambda address: next(answers))
    monkeypatch.setattr(reach, "is_silent", lambda address: True)
    ours = losses.translate(0, failure(kind, "ps", 0, "ping timeout"))
    assert isinstance(ours, WorkerLostError) and losses.lost == frozenset()


def test_a_server_that_is_gone_is_lost(losses, monkeypatch):
    monkeypatch.setattr(reach, "answers", lambda address: False)
    monkeypatch.setattr(reach, "is_silent", lambda address: False)
    ours = losses.translate(0, failure(tf.errors.UnavailableError, "ps", 0, "Socket closed"))
    assert isinstance(ours, ServerLostError) and ours.servers == (0,)


def test_a_server_that_was_started_again_is_lost(losses, monkeypatch):
    monkeypatch.setattr(reach, "answers", lambda address: True)
    ours = losses.translate(0, failure(tf.errors.InvalidArgumentError, "ps", 0, "Unable to find a context_id"))
    assert isinstance(ours, ServerLostError) and ours.is_restarted


def test_without_a_worker_it_waits_up_to_a_limit_that_it_names(losses, monkeypatch):
    monkeypatch.setattr(reach, "answers", lambda address: False)
    monkeypatch.setenv("TFPS_JOIN_TIMEOUT_S", "0.1")
    rejoining = Rejoining(losses, SPEC, Gate(), lambda worker: None)
    rejoining.look()  # none is lost
    for worker in range(2):
        losses.translate(worker, failure(tf.errors.UnavailableError, jobs.WORKER, worker, "Socket closed"))
    message = (
        r"all 2 workers are lost, and none came back within 0.1 s \(TFPS_JOIN_TIMEOUT_S\).*worker 1.*Socket closed"
    )
    with pytest.raises(ClusterTimeoutError, match=message):
        rejoining.look()
