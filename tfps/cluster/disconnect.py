"""Removes the servers of a stopped cluster from TensorFlow's context.

Otherwise TensorFlow keeps notifying the dead servers of every function that it drops and logs an error line each time,
until the chief ends.

Threading: not safe while TensorFlow uses the same servers, but those are about to stop anyway. Cost: a few
milliseconds; up to `LIMIT_S` if a server hangs.
"""

import logging
import sys
import threading
from typing import TYPE_CHECKING

from tfps.cluster.spec import ClusterSpec

if TYPE_CHECKING:
    from tensorflow.core.protobuf.tensorflow_server_pb2 import ServerDef

LIMIT_S = 2.0
"""Seconds the servers have to answer. If one does not, the wait continues in the background until it is killed."""


def disconnect(spec: ClusterSpec) -> None:
    """Disconnects this process from the servers of `spec`, if TensorFlow is connected to them.

    Tensors and variables on those servers can no longer be used.
    """
    if "tensorflow" not in sys.modules:
        return
    # TensorFlow waits for every server's answer without a limit, so it runs in a thread that we can abandon.
    thread = threading.Thread(target=_disconnect, args=(spec,), name="tfps-disconnect", daemon=True)
    thread.start()
    thread.join(LIMIT_S)


def _disconnect(spec: ClusterSpec) -> None:
    import tensorflow as tf
    from tensorflow.python.eager import context  # no public name reaches the server definition

    # A newer strategy may have moved the context to another cluster already; then there is nothing to do.
    server_def = context.context().get_server_def()
    if server_def is not None and _has_servers(server_def, spec):
        try:
            context.context().update_server_def(_keep_chief_only(server_def))
        except tf.errors.OpError as error:
            logging.getLogger(__name__).warning("The servers were not told that the cluster stops: %s", error.message)


def _has_servers(server_def: "ServerDef", spec: ClusterSpec) -> bool:
    connected = {address for job in server_def.cluster.job for address in job.tasks.values()}
    return all(endpoint.dial in connected for _, _, endpoint in spec.servers())


def _keep_chief_only(server_def: "ServerDef") -> "ServerDef":
    """Returns the definition without any job except the chief's."""
    # A copy, because TensorFlow compares the new definition with its own.
    alone = type(server_def)()
    alone.CopyFrom(server_def)
    for job in server_def.cluster.job:
        if job.name != server_def.job_name:
            alone.cluster.job.remove(job)
    # If the filters stayed, TensorFlow would warn that an update cannot change them.
    alone.ClearField("cluster_device_filters")
    return alone
