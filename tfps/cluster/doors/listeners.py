"""The TCP sockets at which this process listens, as the kernel lists them (Linux).

Threading: any thread; another thread may open or close a socket meanwhile. Cost: some milliseconds for a process with
hundreds of sockets.
"""

import contextlib
import dataclasses
import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from typing import TypeAlias

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
_LISTENS = "0A"  # TCP_LISTEN in the kernel's include/net/tcp_states.h
_WORD = 8


@dataclasses.dataclass(frozen=True)
class Listener:
    """A listening socket of this process.

    Args:
        host: the address that it is bound to; a wildcard for every interface.
        port: its port.
        descriptor: the number of its file descriptor.
    """

    host: IpAddress
    port: int
    descriptor: int

    @property
    def is_open_to_all(self) -> bool:
        """Whether it is bound to every interface of the host."""
        mapped: IpAddress | None = getattr(self.host, "ipv4_mapped", None)
        return (mapped or self.host).is_unspecified

    def keep_to_loopback(self) -> None:
        """Makes the socket accept only what comes from this host. Raises `OSError` if the kernel refuses."""
        # A copy of the descriptor, because closing the Python object must not close TensorFlow's socket.
        with socket.socket(fileno=os.dup(self.descriptor)) as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")


def own_listeners(port: int) -> list[Listener]:
    """Returns the sockets at which this process listens on a port.

    Raises:
        OSError: the kernel does not list sockets, as in a sandbox without /proc.
    """
    ours = dict(_own_sockets())
    return [
        Listener(host, port, ours[inode])
        for table in _TABLES
        for host, found, inode in _read_table(table)
        if found == port and inode in ours
    ]


def _own_sockets() -> Iterator[tuple[str, int]]:
    """Yields the inode of each socket of this process, and a descriptor of it."""
    for name in os.listdir("/proc/self/fd"):
        # Another thread may have closed it.
        with contextlib.suppress(OSError):
            kind, _, inode = os.readlink(f"/proc/self/fd/{name}").partition(":")
            if kind == "socket":
                yield inode.strip("[]"), int(name)


def _read_table(path: str) -> Iterator[tuple[IpAddress, int, str]]:
    """Yields host, port and inode of every listening socket of the network namespace."""
    # A kernel without IPv6 has one table.
    if path != _TABLES[0] and not os.path.exists(path):
        return
    with open(path) as table:
        next(table)
        for line in table:
            fields = line.split()
            if fields[3] == _LISTENS:
                host, _, port = fields[1].partition(":")
                yield _parse_host(host), int(port, 16), fields[9]


def _parse_host(text: str) -> IpAddress:
    # The kernel prints four bytes as one number of this machine: 127.0.0.1 is 0100007F where the low byte is first.
    words = [int(text[start : start + _WORD], 16) for start in range(0, len(text), _WORD)]
    return ipaddress.ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words))
