"""Starts the cluster of a strategy, and connects this program to it.

The cluster is the one that TF_CONFIG describes, or else an embedded one. If this task is a server in TF_CONFIG, it
serves here until its process ends. If anything fails, a Ctrl-C included, everything that was started is stopped again.
"""

from collections.abc import Callable

import tensorflow as tf

from tfps import jobs
from tfps.cluster.connection import Connection, connect
from tfps.cluster.faults import translate_errors
from tfps.cluster.local import LocalCluster
from tfps.cluster.reach import wait_for_servers
from tfps.cluster.server import serve
from tfps.cluster.spec import ClusterSpec
from tfps.cluster.tf_config import TaskConfig


def start(
    cluster: LocalCluster | ClusterSpec | None, config: TaskConfig | None, join: Callable[[ClusterSpec], None]
) -> Connection:
    """Starts the servers or waits for them, and connects to them.

    Args:
        cluster: the embedded cluster, or the addresses of servers that the user has started; only read without config.
        config: the configuration from TF_CONFIG; None if it is unset.
        join: a function that connects TensorFlow to the tasks of a running cluster.

    Raises:
        ClusterError: a task did not start, or cannot be reached.
        SystemExit: this task is a server, and the chief has finished.
    """
    if config is not None:
        # `serve` ends the process when the chief has finished, so only the chief passes this line.
        if config.task_type != jobs.CHIEF:
            serve(config)
        cluster = config.cluster
    assert cluster is not None
    if isinstance(cluster, ClusterSpec):
        wait_for_servers(cluster)
        return _connect(cluster, cluster, join)
    was_up = bool(cluster.tasks)
    try:
        cluster.start()
        return _connect(cluster, cluster.spec, join)
    except BaseException:
        # If the user has started the cluster, only the user may stop it.
        if not was_up:
            cluster.stop()
        raise


def _connect(cluster: LocalCluster | ClusterSpec, spec: ClusterSpec, join: Callable[[ClusterSpec], None]) -> Connection:
    """Connects to a running cluster, and translates the errors of TensorFlow."""
    with translate_errors(cluster):
        return connect(cluster, lambda: join(spec))


def make_resolver(spec: ClusterSpec) -> tf.distribute.cluster_resolver.ClusterResolver:
    """Makes the description of a cluster that TensorFlow's strategy takes."""
    # The spec of an embedded cluster has no chief. TensorFlow then adds this process as the chief, on a free port.
    task = {"task_type": jobs.CHIEF, "task_id": 0} if spec.chief else {}
    return tf.distribute.cluster_resolver.SimpleClusterResolver(spec.resolver_spec(), rpc_layer="grpc", **task)
