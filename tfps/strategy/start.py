"""Starts the cluster of a strategy, and connects this program to it.

The cluster is the one that TF_CONFIG describes, or else an embedded one. If this task is a server in TF_CONFIG, it
serves here until its process ends. If anything fails, a Ctrl-C included, everything that was started is stopped again.
"""

from collections.abc import Callable

import tensorflow as tf
from tensorflow.python.eager import context  # no public name reaches the server definition

from tfps import jobs
from tfps.cluster.connection import Connection, connect
from tfps.cluster.doors.listening import start_listening
from tfps.cluster.endpoints import split_address
from tfps.cluster.faults import translate_errors
from tfps.cluster.local import LocalCluster
from tfps.cluster.ports import LOOPBACK
from tfps.cluster.reach import wait_for_servers
from tfps.cluster.server import serve
from tfps.cluster.spec import ClusterSpec
from tfps.cluster.tf_config import TaskConfig
from tfps.cluster.tls.secure import open_door, refuse_without_tunnel


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
        config, listen = open_door(config)
        cluster = config.cluster
    else:
        # Without an address in the cluster, TensorFlow gives the chief one on loopback.
        listen = f"{LOOPBACK}:0"
        if isinstance(cluster, ClusterSpec):
            refuse_without_tunnel("the servers of a ClusterResolver")
    assert cluster is not None

    def connect_chief(spec: ClusterSpec) -> None:
        start_listening(f"{jobs.CHIEF} 0", split_address(listen)[0], lambda: _join(spec, join))

    if isinstance(cluster, ClusterSpec):
        wait_for_servers(cluster)
        return _connect(cluster, cluster, connect_chief)
    was_up = bool(cluster.tasks)
    try:
        cluster.start()
        return _connect(cluster, cluster.spec, connect_chief)
    except BaseException:
        # If the user has started the cluster, only the user may stop it.
        if not was_up:
            cluster.stop()
        raise


def _connect(cluster: LocalCluster | ClusterSpec, spec: ClusterSpec, join: Callable[[ClusterSpec], None]) -> Connection:
    """Connects to a running cluster, and translates the errors of TensorFlow."""
    with translate_errors(cluster):
        return connect(cluster, lambda: join(spec))


def _join(spec: ClusterSpec, join: Callable[[ClusterSpec], None]) -> int:
    """Connects TensorFlow, which starts the chief's server if there is none yet; returns the port of that server."""
    join(spec)
    definition = context.context().get_server_def()
    chief = next(job for job in definition.cluster.job if job.name == definition.job_name)
    return split_address(chief.tasks[definition.task_index])[1]


def make_resolver(spec: ClusterSpec) -> tf.distribute.cluster_resolver.ClusterResolver:
    """Makes the description of a cluster that TensorFlow's strategy takes."""
    # The spec of an embedded cluster has no chief. TensorFlow then adds this process as the chief, on a free port.
    task = {"task_type": jobs.CHIEF, "task_id": 0} if spec.chief else {}
    return tf.distribute.cluster_resolver.SimpleClusterResolver(spec.resolver_spec(), rpc_layer="grpc", **task)
