"""Chooses the one IP address at which a task listens: the address that the cluster spec gives it.

Threading: any thread. Cost: a question to the name server for each host name, and no packet to another host.
"""

import ipaddress
import socket
import time
from collections.abc import Sequence

from tfps import env
from tfps.cluster import logs
from tfps.cluster.endpoints import join_address, split_address
from tfps.cluster.tf_config import TaskConfig
from tfps.errors import ConfigError

_RETRY_S = 1.0


def choose_listen_address(config: TaskConfig) -> str:
    """Returns the "host:port" at which a task of a cluster with servers listens; see `choose_own_address`."""
    endpoints = [*config.cluster.chief, *(endpoint for _, _, endpoint in config.cluster.servers())]
    key = f"`cluster.{config.task_type}[{config.task_index}]`"
    return choose_own_address(key, config.endpoint.listen, [str(endpoint) for endpoint in endpoints])


def choose_own_address(key: str, address: str, cluster: Sequence[str]) -> str:
    """Returns the "host:port" at which this task listens; its host is an IP address, or 0.0.0.0 for every interface.

    The first rule that applies:

    1. TFPS_LISTEN names the address.
    2. An address in the cluster spec is the task's own.
    3. A name in the cluster spec stands for the first of its addresses that this host has, loopback addresses left out.
    4. A name that is a loopback address on its own host, as on Debian, stands for the address from which this host
       reaches the other tasks; or for the loopback address, if they are all on this host.

    Args:
        key: the name of the address, for messages: "`cluster.worker[0]`".
        address: the "host:port" of the task in the cluster spec.
        cluster: the "host:port" of all tasks.

    Raises:
        ConfigError: this host has no such address.
    """
    host, port = split_address(address)
    chosen = env.listen_host()
    if chosen is not None:
        return join_address(_check_own("TFPS_LISTEN", chosen), port)
    if _is_literal(host):
        return join_address(_check_own(key, host), port)
    own = [address for address in _resolve(key, host) if _is_own(address)]
    if not own:
        raise ConfigError(f"{key} must be at an address of this host. Received: {host!r}. {_valid()}")
    outside = [address for address in own if not ipaddress.ip_address(address).is_loopback]
    if host.lower() != "localhost" and not outside:
        others = dict.fromkeys(split_address(one)[0] for one in cluster)
        outside = _addresses_towards([other for other in others if other != host])
    return join_address((outside or own)[0], port)


def _check_own(key: str, host: str) -> str:
    if not _is_own(host):
        raise ConfigError(f"{key} must be an address of this host. Received: {host!r}. {_valid()}")
    return host


def _valid() -> str:
    return (
        "Valid where another machine forwards connections: TFPS_LISTEN with an address of this host, or with 0.0.0.0 "
        "for every interface."
    )


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_own(host: str) -> bool:
    """Returns whether a socket of this host can have the address."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _resolve(key: str, host: str) -> list[str]:
    """Returns the IP addresses of a name, and waits up to TFPS_JOIN_TIMEOUT_S until it has one."""
    limit_s, started = env.join_timeout_s(), time.monotonic()
    while True:
        try:
            return _lookup(host)
        except OSError as error:
            # The name of a pod may appear seconds after the pod.
            if time.monotonic() - started > limit_s:
                raise ConfigError(
                    f"{key} must have a host name that this host can resolve. Received: {host!r} ({error.strerror})."
                ) from None
            if time.monotonic() - started < _RETRY_S:
                logs.say(f"waits until the name {host} has an address ({error.strerror})")
            time.sleep(_RETRY_S)


def _lookup(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    # An address with a scope ("fe80::1%eth0") is valid on one link of one host, so it is in no cluster spec.
    return [str(entry[4][0]) for entry in found if "%" not in str(entry[4][0])]


def _addresses_towards(hosts: Sequence[str]) -> list[str]:
    """Returns the address from which this host reaches the first of `hosts` that is another one; [] if none is."""
    for host in hosts:
        try:
            family, _, _, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                # For UDP this only chooses a route. Nothing is sent.
                probe.connect(target)
                source = str(probe.getsockname()[0])
        except OSError:
            continue
        if not ipaddress.ip_address(source.partition("%")[0]).is_loopback:
            return [source]
    return []
