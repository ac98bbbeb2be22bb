"""Counts the bytes that processes of this machine send and receive by TCP, as the kernel counts them.

The kernel keeps the bytes of each connection. `sock_diag` of netlink gives them for all connections of this network
namespace at once (1 ms), and /proc tells which process has which socket. No privilege is needed for processes of the
same user.

What is counted: the payload of connections that are open, in both directions, retransmissions included. What is not:
connections over Unix sockets, those of another network namespace, and, after a connection has closed, what went over
it since the last look. `TrafficCounter` keeps what it has seen, so that its sums never go down.

Threading: `connection_bytes` any thread; a `TrafficCounter` belongs to one. Linux alone: elsewhere nothing is known.
"""

import contextlib
import os
import re
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

_SOCK_DIAG = 4
"""The protocol NETLINK_SOCK_DIAG."""
_BY_FAMILY, _DUMP, _DONE, _ERROR = 20, 0x301, 3, 2
_HEADER = "=IHHII"
# struct inet_diag_req_v2: family, protocol, extensions, padding, states; then the id of a socket, for any 48 zeros.
_REQUEST = "=BBBxI48x"
_TCP_ESTABLISHED = 1 << 1
_INFO = 2
"""The attribute INET_DIAG_INFO; its value is a struct tcp_info."""
_INODE_AT, _ATTRIBUTES_AT = 68, 72
"""Offsets in struct inet_diag_msg."""
_RECEIVED_AT, _SENT_AT = 128, 200
"""Offsets of tcpi_bytes_received and tcpi_bytes_sent in struct tcp_info; the second came with Linux 4.19."""
_LIMIT_S = 1.0
_SOCKET = re.compile(r"socket:\[(\d+)\]")

Inode: TypeAlias = int


class Traffic(NamedTuple):
    """Bytes in both directions.

    Args:
        received: bytes that came in.
        sent: bytes that went out.
    """

    received: int
    sent: int


def connection_bytes() -> dict[Inode, Traffic] | None:
    """Returns the bytes of every open TCP connection of this network namespace; None if the kernel does not say."""
    found: dict[Inode, Traffic] = {}
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            found.update(_dump(family))
    # No netlink here: another system, or a sandbox.
    except (OSError, AttributeError, struct.error):
        return None
    return found


def sockets_of(pid: int | str) -> frozenset[Inode]:
    """Returns the sockets of a process; none if it has ended or belongs to another user."""
    inodes = set()
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            # A descriptor may be closed meanwhile.
            with contextlib.suppress(OSError):
                found = _SOCKET.fullmatch(os.readlink(entry.path))
                if found is not None:
                    inodes.add(int(found[1]))
    return frozenset(inodes)


class TrafficCounter:
    """Adds up the bytes of one process over its connections, those that have closed included.

    Args:
        pid: the process; "self" for this one.
    """

    def __init__(self, pid: int | str = "self") -> None:
        self._pid = pid
        self._open: dict[Inode, Traffic] = {}
        self._closed = Traffic(0, 0)

    def count(self, connections: Mapping[Inode, Traffic] | None) -> Traffic | None:
        """Returns the bytes so far; None if the kernel does not say.

        Args:
            connections: what `connection_bytes` returned. Counters of several processes share it.
        """
        if connections is None:
            return None
        now = {inode: connections[inode] for inode in sockets_of(self._pid) if inode in connections}
        for inode, before in self._open.items():
            # An inode may be used again, by a connection that begins at 0.
            after = now.get(inode)
            if after is None or after.received < before.received or after.sent < before.sent:
                self._closed = Traffic(self._closed.received + before.received, self._closed.sent + before.sent)
        self._open = now
        return Traffic(
            self._closed.received + sum(one.received for one in now.values()),
            self._closed.sent + sum(one.sent for one in now.values()),
        )


def _dump(family: int) -> Iterator[tuple[Inode, Traffic]]:
    """Yields the bytes of the connections of one family of addresses."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as link:
        link.settimeout(_LIMIT_S)
        request = struct.pack(_REQUEST, family, socket.IPPROTO_TCP, 1 << (_INFO - 1), _TCP_ESTABLISHED)
        link.send(struct.pack(_HEADER, 16 + len(request), _BY_FAMILY, _DUMP, 1, 0) + request)
        while True:
            for kind, message in _split(link.recv(1 << 18)):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise OSError(-struct.unpack_from("=i", message)[0], "sock_diag")
                if (traffic := _parse(message)) is not None:
                    yield struct.unpack_from("=I", message, _INODE_AT)[0], traffic


def _split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the type and the body of each netlink message."""
    at = 0
    while at < len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        yield kind, data[at + 16 : at + length]
        # Messages are aligned to 4 bytes.
        at += (length + 3) & ~3


def _parse(message: bytes) -> Traffic | None:
    """Returns the bytes of a connection; None for a kernel that does not count them."""
    at = _ATTRIBUTES_AT
    while at < len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if kind == _INFO and length - 4 >= _SENT_AT + 8:
            (received,) = struct.unpack_from("=Q", message, at + 4 + _RECEIVED_AT)
            (sent,) = struct.unpack_from("=Q", message, at + 4 + _SENT_AT)
            return Traffic(received, sent)
        at += (length + 3) & ~3
    return None
