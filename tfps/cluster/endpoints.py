"""The address of a task. It has two sides: the address the task listens at, and the address that others dial.

Both are the same on one network and in TF_CONFIG, which has one "host:port" per task. They differ if the system picks
the port (the task listens at port 0), or if a Kubernetes service or a forwarded port stands in front of the task.

Values and pure functions: any thread, microseconds; nothing is resolved, bound or connected.
"""

import contextlib
import dataclasses
import ipaddress
import re

from tfps.checks import show_value
from tfps.errors import ConfigError

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]\x00-\x1f\x7f]+):(?P<port>[0-9]{1,9})")


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """The two sides of one task's address, each a "host:port".

    Args:
        dial: the address that other tasks connect to.
        listen: the address at which the task's own server listens, and no other.
        shown: the address that messages show; "" for the dialled one. Behind a tunnel it is that of the cluster spec,
            because the dialled one is on loopback.

    Example:
        >>> str(Endpoint.at("10.0.0.7:2222"))
        '10.0.0.7:2222'
    """

    dial: str
    listen: str
    shown: str = ""

    @classmethod
    def at(cls, address: str) -> "Endpoint":
        """Makes the endpoint of a task that others dial at the address where it listens."""
        return cls(dial=address, listen=address)

    def __str__(self) -> str:
        """Returns the address for a message, which its reader can try."""
        return self.shown or self.dial

    def is_dialled_at(self, address: str) -> bool:
        """Returns whether `address` is the dialled address, with localhost and 127.0.0.1 taken as equal."""
        return canonicalize(self.dial) == canonicalize(address)


def split_address(address: str) -> tuple[str, int]:
    """Splits a checked "host:port" into host and port, and removes the brackets of "[::1]:2222"."""
    # From the right, because an IPv6 host contains colons.
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """Returns "host:port", with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Returns whether a host is "localhost" or a loopback address. Other names are not resolved."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def canonicalize(address: str) -> str:
    """Returns one spelling for equal addresses: localhost:2222 becomes 127.0.0.1:2222, the same port."""
    # Host names ignore case. Other names for one host are not resolved: that could wait for a name server.
    host, port = split_address(address.lower())
    return f"{'127.0.0.1' if host == 'localhost' else host}:{port}"


def check_addresses(key: str, addresses: object) -> None:
    """Checks that `addresses` is a list of "host:port" strings.

    Raises:
        ConfigError: it is not one; the message names the key and the element.
    """
    if not isinstance(addresses, (list, tuple)):
        raise ConfigError(f'`{key}` must be a list of "host:port" strings. Received: {show_value(addresses)}.')
    for index, address in enumerate(addresses):
        check_address(f"{key}[{index}]", address)


def check_address(key: str, address: object) -> None:
    """Checks that `address` is a "host:port".

    Raises:
        ConfigError: it is not one; the message names the key.
    """
    if not isinstance(address, str):
        raise ConfigError(f'`{key}` must be a string "host:port". Received: {show_value(address)}.')
    # This also rejects "http://a:1", "a:1/b", spaces, and a missing host or port.
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ConfigError(
            f'`{key}` must be "host:port" with a port from 1 to 65535, without a scheme ("10.0.0.7:2222"). '
            f"Received: {show_value(address)}."
        )
    if not 1 <= int(match["port"]) <= 65535:
        raise ConfigError(
            f"`{key}` must have a port from 1 to 65535. Received: {match['port']} in {show_value(address)}."
        )
