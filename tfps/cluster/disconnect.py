"""Takes the servers of a stopped cluster out of TensorFlow's context, so that the chief can go on and end in silence.

Without it TensorFlow tells every server that is gone about every function it drops, one error line each, until the
chief has ended. Not thread-safe against TensorFlow work on the same servers: they are about to end anyway.
Cost: a few milliseconds; with a server that hangs, up to `LIMIT_S`.
"""

import logging
import sys
import threading
from typing import TYPE_CHECKING

from tfps.cluster.spec import ClusterSpec

if TYPE_CHECKING:
    from tensorflow.core.protobuf.tensorflow_server_pb2 import ServerDef

LIMIT_S = 2.0
"""How long the servers may take to answer; killing them afterwards ends the wait that goes on in the background."""


def disconnect(spec: ClusterSpec) -> None:
    """Disconnects this process from the servers of `spec`, if TensorFlow is connected to them.

    Tensors and variables on those servers can no longer be used.
    """
    if "tensorflow" not in sys.modules:
        return
    # TensorFlow waits for every server's answer without a limit, so it gets a thread that can be left behind.
    thread = threading.Thread(target=_disconnect, args=(spec,), name="tfps-disconnect", daemon=True)
    thread.start()
    thread.join(LIMIT_S)


def _disconnect(spec: ClusterSpec) -> None:
    import tensorflow as tf
    from tensorflow.python.eager import context  # no public name reaches the server definition

    # A newer strategy may have moved the context to another cluster already; then there is nothing to do.
    server_def = context.context().get_server_def()
    if server_def is not None and _holds(server_def, spec):
        try:
            context.context().update_server_def(_alone(server_def))
        except tf.errors.OpError as error:
            logging.getLogger(__name__).warning("The servers were not told that the cluster stops: %s", error.message)


def _holds(server_def: "ServerDef", spec: ClusterSpec) -> bool:
    connected = {address for job in server_def.cluster.job for address in job.tasks.values()}
    return all(endpoint.dial in connected for _, _, endpoint in spec.servers())


def _alone(server_def: "ServerDef") -> "ServerDef":
    """The same definition with the chief's own job only."""
    # A copy, because TensorFlow compares the new definition with its own.
    alone = type(server_def)()
    alone.CopyFrom(server_def)
    for job in server_def.cluster.job:
        if job.name != server_def.job_name:
            alone.cluster.job.remove(job)
    # Left in, TensorFlow warns that an update cannot change them.
    alone.ClearField("cluster_device_filters")
    return alone
