"""Starts a TensorFlow server in this process.

Ownership: the server runs in TensorFlow's threads until the process ends; TensorFlow cannot stop a server cleanly.
Cost: about 10 ms once TensorFlow is imported. Start at most one server per process.

TensorFlow's server authenticates nobody: anyone who reaches its port can run any op. It listens at one address alone
(`tfps.cluster.doors`); docs/security.md says what that protects.
"""

from collections.abc import Sequence
from typing import Any

from tfps.cluster.endpoints import split_address
from tfps.errors import ClusterError


def load_tensorflow() -> Any:
    """Imports TensorFlow and the tfps ops that servers run, and starts neither a thread nor a context of TensorFlow."""
    import tensorflow as tf

    from tfps.cluster import worker_functions
    from tfps.cluster.doors import hooks
    from tfps.ops import library

    library.load()
    worker_functions.register()
    # Before the zygote forks: its servers then have the hooks.
    hooks.find()
    return tf


def start_server(
    job: str, index: int, listen: str, threads: int = 0, cpu_devices: int = 1, cards: Sequence[int] = ()
) -> str:
    """Starts the server of one task and returns the address it is bound to.

    Args:
        job: "ps" or "worker".
        index: the task's position in its job.
        listen: the "host:port" to listen at, an IP address, or 0.0.0.0 for every interface; for port 0 the system picks
            a port. The other tasks need not be known here, because the chief sends every server the whole cluster
            when it connects.
        threads: compute threads of one op (intra-op); 0 for one per core.
        cpu_devices: the logical CPU devices of the task.
        cards: the numbers of the cards that the task computes on.

    Raises:
        ClusterError: the port cannot be bound, or is open to other hosts although `listen` is on loopback.
    """
    from tfps.cluster.doors.listening import start_listening

    tf = load_tensorflow()
    # Two servers on one machine would compete for the cores if each op used all of them.
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads)
    config.device_count["CPU"] = cpu_devices
    if cards:
        # Other processes may use the same cards, such as the chief.
        config.gpu_options.allow_growth = True
        config.gpu_options.visible_device_list = ",".join(map(str, cards))
    else:
        # Otherwise TensorFlow would take the memory of the cards, or log an error if there is no driver.
        config.device_count["GPU"] = 0

    def start() -> int:
        # The server's threads must not outlive its Python object.
        _servers.append(tf.distribute.Server({job: {index: listen}}, job, index, protocol="grpc", config=config))
        return split_address(_servers[-1].target)[1]

    try:
        start_listening(f"{job} {index}", split_address(listen)[0], start)
    except tf.errors.OpError as error:
        raise ClusterError(
            f"{job} {index} cannot listen at {listen}; another process may have the port. "
            f"TensorFlow says: {error.message}"
        ) from error
    bound: str = _servers[-1].target.removeprefix("grpc://")
    return bound


_servers: list[Any] = []
