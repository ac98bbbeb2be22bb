"""Brings up the cluster of a strategy and connects this program to it.

Which cluster: the one that TF_CONFIG describes, else an embedded one. A server of a TF_CONFIG serves here, for the rest
of its process. What this starts is stopped again if anything fails, a Ctrl-C included.
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


def start(cluster: LocalCluster | None, config: TaskConfig | None, join: Callable[[ClusterSpec], None]) -> Connection:
    """Starts or awaits the servers, and connects to them.

    Args:
        cluster: the embedded cluster; None where there is a TF_CONFIG.
        config: what TF_CONFIG says; None where it is unset.
        join: connects TensorFlow to the tasks of a cluster that is up.

    Raises:
        ClusterError: a task did not come up, or cannot be reached.
        SystemExit: this task is a server, and the chief is done.
    """
    if config is not None:
        # `serve` ends the process when the chief is done, so below this line is the chief alone.
        if config.task_type != jobs.CHIEF:
            serve(config)
        wait_for_servers(config.cluster)
        return _connect(config.cluster, config.cluster, join)
    assert cluster is not None
    was_up = bool(cluster.tasks)
    try:
        cluster.start()
        return _connect(cluster, cluster.spec, join)
    except BaseException:
        # A cluster that the user started before stays up; it is theirs to stop.
        if not was_up:
            cluster.stop()
        raise


def _connect(cluster: LocalCluster | ClusterSpec, spec: ClusterSpec, join: Callable[[ClusterSpec], None]) -> Connection:
    with translate_errors(cluster):
        return connect(cluster, lambda: join(spec))


def resolver_of(spec: ClusterSpec) -> tf.distribute.cluster_resolver.ClusterResolver:
    """What TensorFlow's strategy takes for a cluster."""
    # Without a chief in the spec, as in an embedded cluster, TensorFlow adds one on a port of its choice.
    task = {"task_type": jobs.CHIEF, "task_id": 0} if spec.chief else {}
    return tf.distribute.cluster_resolver.SimpleClusterResolver(spec.resolver_spec(), rpc_layer="grpc", **task)
