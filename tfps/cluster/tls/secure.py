"""Puts a task behind mutual TLS: it listens on loopback, and a tunnel beside it takes and makes all its connections.

TensorFlow has no TLS. So the cluster that TensorFlow sees has made-up addresses on loopback, the same in every task:
127.77.0.1 for the chief, 127.77.0.2 for the first server and so on, with the ports of the real cluster. Each task
binds its own. Its connections to the others are led to doors of its tunnel, on free ports of 127.0.0.1
(`doors/redirects.py`), so several tasks of a host do not meet. Without the C++ library TensorFlow cannot be led
anywhere, and TLS is refused.

Threading: any thread. Ownership: a tunnel lasts until the process ends; a second strategy uses the one that is there.
"""

import dataclasses
import pathlib
import threading

from tfps import env, jobs
from tfps.cluster import logs
from tfps.cluster.doors import redirects
from tfps.cluster.doors.listen_host import choose_listen_address
from tfps.cluster.endpoints import Endpoint, split_address
from tfps.cluster.ports import reserve_address
from tfps.cluster.spec import ClusterSpec
from tfps.cluster.tf_config import TaskConfig
from tfps.cluster.tls.files import TlsFiles
from tfps.cluster.tls.stunnel_config import Peer, find_stunnel, make_config
from tfps.cluster.tls.tunnel import Tunnel
from tfps.errors import ConfigError

_ADDRESSES_PER_BYTE = 250

_lock = threading.Lock()
_open: dict[TaskConfig, tuple[TaskConfig, Tunnel]] = {}


def open_door(config: TaskConfig) -> tuple[TaskConfig, str]:
    """Prepares the address at which a task listens, behind a tunnel if TFPS_TLS_DIR is set.

    Args:
        config: the task, with the cluster as the user has given it.

    Returns:
        The task with the cluster that TensorFlow shall see, and the "address:port" at which its server shall listen.

    Raises:
        ConfigError: this host has no such address, stunnel is not installed, or the certificates cannot be used.
        LibraryError: the C++ library is missing.
        ClusterError: the tunnel does not start.
    """
    directory = env.tls_dir()
    outer = choose_listen_address(config)
    if directory is None:
        return config, outer
    with _lock:
        if config not in _open:
            _open[config] = _start_tunnel(config, outer, TlsFiles(pathlib.Path(directory).absolute()))
        inside, _ = _open[config]
    return inside, inside.endpoint.listen


def refuse_without_tunnel(what: str) -> None:
    """Refuses a cluster that cannot have tunnels while TFPS_TLS_DIR asks for them.

    Raises:
        ConfigError: TFPS_TLS_DIR is set.
    """
    directory = env.tls_dir()
    if directory is not None:
        raise ConfigError(
            f"TFPS_TLS_DIR must be unset for {what}, whose connections tfps cannot encrypt. Received: {directory!r}. "
            "Valid: a tfps.ParameterServerStrategy of TF_CONFIG, SLURM or Open MPI."
        )


def make_inner_cluster(cluster: ClusterSpec) -> ClusterSpec:
    """Returns the cluster with an address on loopback for each task, the same in every task.

    Example:
        >>> inner = make_inner_cluster(ClusterSpec(chief=("a:1",), ps=("b:2",), worker=("c:3",)))
        >>> inner.as_dict()["worker"], str(inner.worker[0])
        (['127.77.0.3:3'], 'c:3')
    """
    inner: dict[str, list[Endpoint]] = {job: [] for job in jobs.JOBS}
    order = [(jobs.CHIEF, 0, cluster.endpoints(jobs.CHIEF)[0]), *cluster.servers()]
    for number, (job, _, endpoint) in enumerate(order):
        high, low = divmod(number, _ADDRESSES_PER_BYTE)
        address = f"127.77.{high}.{1 + low}:{split_address(endpoint.dial)[1]}"
        inner[job].append(Endpoint(dial=address, listen=address, shown=str(endpoint)))
    return ClusterSpec(**{job: tuple(endpoints) for job, endpoints in inner.items()})


def _start_tunnel(config: TaskConfig, outer: str, files: TlsFiles) -> tuple[TaskConfig, Tunnel]:
    redirects.check_possible()
    program, host = find_stunnel(), split_address(config.endpoint.dial)[0]
    until = files.check(host)
    inside = dataclasses.replace(config, cluster=make_inner_cluster(config.cluster))
    peers = _make_peers(inside)
    named = {peer.service: f"{peer.name} at {peer.outer}" for peer, _ in peers}
    text = make_config(files, outer, inside.endpoint.listen, [peer for peer, _ in peers])
    tunnel = Tunnel(config.name, program, text, files, host, named)
    tunnel.start()
    for peer, dialled in peers:
        redirects.redirect(dialled, peer.door)
    logs.say(f"{config.name} is behind TLS at {outer}, with a certificate for {host} that is valid until {until}")
    return inside, tunnel


def _make_peers(inside: TaskConfig) -> list[tuple[Peer, str]]:
    """Returns the other tasks, each with the address at which TensorFlow dials it."""
    peers = []
    chief = inside.cluster.endpoints(jobs.CHIEF)[0]
    for job, index, endpoint in [(jobs.CHIEF, 0, chief), *inside.cluster.servers()]:
        if (job, index) != (inside.task_type, inside.task_index):
            peers.append((Peer(f"{job} {index}", str(endpoint), reserve_address()), endpoint.dial))
    return peers
