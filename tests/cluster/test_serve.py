"""Roles from TF_CONFIG: one program on three "hosts", and the ways a server's life ends."""

import json
import signal

import pytest

from tfps.cluster import ports, server
from tfps.cluster.spec import ClusterSpec
from tfps.cluster.tf_config import TaskConfig
from tfps.errors import ConfigError

PROGRAM = """
import time
from tfps.cluster import reach, server, tf_config
config = tf_config.from_environment()
if config.task_type != "chief":
    server.serve(config)
import tensorflow as tf
reach.wait_for_servers(config.cluster)
strategy = tf.distribute.ParameterServerStrategy(tf.distribute.cluster_resolver.TFConfigClusterResolver())
coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
with strategy.scope():
    counter = tf.Variable(0.0)
@tf.function
def step():
    counter.assign_add(1.0)
for _ in range(30):
    coordinator.schedule(step)
coordinator.join()
print("counted", counter.numpy(), flush=True)
"""


@pytest.fixture
def cluster():
    addresses = [ports.reserve_address() for _ in range(3)]
    return ClusterSpec(chief=(addresses[0],), worker=(addresses[1],), ps=(addresses[2],))


def start(run, cluster, job, end="", **environment):
    return run(PROGRAM + end, TF_CONFIG=TaskConfig(cluster, job, 0).to_json(), **environment)


def test_one_program_runs_every_role(run, cluster):
    servers = [start(run, cluster, job) for job in ("ps", "worker")]
    chief = start(run, cluster, "chief")
    assert chief.wait() == 0 and "counted 30.0" in chief.output()
    for program, name in zip(servers, ("ps 0", "worker 0"), strict=True):
        assert program.wait() == 0, program.output()
        assert f"tfps: {name} ends: the chief at {cluster.chief[0]} is done" in program.output()
        assert "Traceback" not in program.output()


def test_servers_end_when_the_chief_is_killed(run, cluster):
    servers = [start(run, cluster, job) for job in ("ps", "worker")]
    chief = start(run, cluster, "chief", "time.sleep(600)")
    chief.wait_for("counted")
    chief.process.kill()
    assert [program.wait() for program in servers] == [0, 0]


def test_chief_that_never_comes(run, cluster):
    program = start(run, cluster, "ps", TFPS_JOIN_TIMEOUT_S="1")
    assert program.wait() == 1
    assert f"error: ps 0 waited 1 s (TFPS_JOIN_TIMEOUT_S) for the chief at {cluster.chief[0]}" in program.output()
    assert "Traceback" not in program.output()


def test_port_in_use(run, cluster):
    first = start(run, cluster, "ps")
    first.wait_for("waits for the chief")
    second = start(run, cluster, "ps")
    assert second.wait() == 1
    assert f"error: ps 0 cannot listen at {cluster.ps[0].listen}; another process may have the port" in second.output()
    first.process.send_signal(signal.SIGINT)
    assert first.wait() == 130
    assert "ps 0 was interrupted" in first.output() and "Traceback" not in first.output()


def test_serve_is_not_for_the_chief(cluster):
    with pytest.raises(ConfigError, match="must be 'ps' or 'worker' to serve. Received: 'chief'"):
        server.serve(TaskConfig(cluster, "chief", 0))


def test_wrong_config_starts_nothing(run):
    program = run(PROGRAM, TF_CONFIG=json.dumps({"cluster": {"ps": ["a:1"]}}))
    assert program.wait() == 1
    assert "ConfigError: TF_CONFIG: `cluster.chief` must list at least one address" in program.output()
