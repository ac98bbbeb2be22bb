"""One TensorFlow server in this process.

Ownership: the server runs in threads of TensorFlow's until the process ends; TensorFlow cannot stop one cleanly.
Cost: about 10 ms once TensorFlow is imported. Start at most one a process.

TensorFlow binds every server to 0.0.0.0, whatever address the cluster names, and asks nobody who they are: whoever
reaches the port can run any op. Keep the ports of a cluster inside a trusted network.
"""

from typing import Any

from tfps.cluster.endpoints import split_address
from tfps.errors import ClusterError


def load_tensorflow() -> Any:
    """Imports TensorFlow and the tfps ops that servers run, without starting a thread or a context of TensorFlow's."""
    import tensorflow as tf

    from tfps.ops import library

    library.load()
    return tf


def start_server(job: str, index: int, listen: str, threads: int = 0) -> str:
    """Starts the server of one task and returns the address it is bound to.

    Args:
        job: "ps" or "worker".
        index: the task's position in its job.
        listen: "host:port" to listen at; port 0 has the system pick one. The chief sends every server the whole cluster
            when it connects, so other tasks need not be known here.
        threads: compute threads of one op (intra-op); 0 for one a core.

    Raises:
        ClusterError: the port cannot be bound.
    """
    tf = load_tensorflow()
    # Of one op: two servers on a machine that both take all cores would fight over them.
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads)
    # Closures run on CPUs. TensorFlow would take the GPUs' memory, or log an error where there is no driver.
    config.device_count["GPU"] = 0
    try:
        server = tf.distribute.Server({job: {index: listen}}, job, index, protocol="grpc", config=config)
    except tf.errors.OpError as error:
        raise ClusterError(
            f"{job} {index} cannot listen on port {split_address(listen)[1]}; another process may have it. "
            f"TensorFlow says: {error.message}"
        ) from error
    bound: str = server.target.removeprefix("grpc://")
    # The server's thread must not see its Python object die.
    _servers.append(server)
    return bound


_servers: list[Any] = []
