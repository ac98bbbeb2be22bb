"""Where a task is reached. An address has two sides: the one a task listens at, and the one others dial.

They are the same on one network, and in TF_CONFIG, which has one "host:port" a task. They differ where the system picks
the port (the task listens at port 0), or where a service of Kubernetes or a forwarded port stands before the task.

Values and pure functions: any thread, microseconds; nothing is resolved, bound or connected.
"""

import dataclasses
import re

from tfps.errors import ConfigError

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(?P<port>[0-9]+)")


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """The two sides of one task's address, each a "host:port".

    Args:
        dial: where other tasks connect to.
        listen: where the task's own server listens. TensorFlow's binds every network interface, so only the port of it
            counts.

    Example:
        >>> str(Endpoint.at("10.0.0.7:2222"))
        '10.0.0.7:2222'
    """

    dial: str
    listen: str

    @classmethod
    def at(cls, address: str) -> "Endpoint":
        """The endpoint of a task that is dialled where it listens."""
        return cls(dial=address, listen=address)

    def __str__(self) -> str:
        """What messages show: the address that a reader can try."""
        return self.dial

    def is_dialled_at(self, address: str) -> bool:
        """Whether `address` is where others dial it, under whatever name of this host."""
        return canonical(self.dial) == canonical(address)


def split_address(address: str) -> tuple[str, int]:
    """Splits a checked "host:port"; the brackets of "[::1]:2222" are taken off."""
    # From the right, because an IPv6 host has colons of its own.
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def canonical(address: str) -> str:
    """One spelling of an address: localhost:2222 and 127.0.0.1:2222 are one port, and two servers there would clash."""
    # Names of hosts know no case. Other names for one host are not resolved: that could wait for a name server.
    host, port = split_address(address.lower())
    return f"{'127.0.0.1' if host == 'localhost' else host}:{port}"


def check_addresses(key: str, addresses: object) -> None:
    """Checks that `addresses` is a list of "host:port" strings.

    Raises:
        ConfigError: it is not; the message names the key and the element.
    """
    if not isinstance(addresses, (list, tuple)):
        raise ConfigError(f'`{key}` must be a list of "host:port" strings. Received: {addresses!r}.')
    for index, address in enumerate(addresses):
        check_address(f"{key}[{index}]", address)


def check_address(key: str, address: object) -> None:
    """Checks that `address` is a "host:port".

    Raises:
        ConfigError: it is not; the message names the key.
    """
    if not isinstance(address, str):
        raise ConfigError(f'`{key}` must be a string "host:port". Received: {address!r}.')
    # "http://a:1" and "a:1/b" fail here, and so do a missing host, a missing port and spaces.
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ConfigError(
            f'`{key}` must be "host:port" with a port from 1 to 65535, without a scheme ("10.0.0.7:2222"). '
            f"Received: {address!r}."
        )
    if not 1 <= int(match["port"]) <= 65535:
        raise ConfigError(f"`{key}` must have a port from 1 to 65535. Received: {match['port']} in {address!r}.")
