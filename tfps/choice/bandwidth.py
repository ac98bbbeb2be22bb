"""Measures the bandwidth between two hosts of a cluster, before its strategy starts.

The first task listens at its own address, which its strategy binds later. The first task of another host sends to it
for up to a second, and both know the result. All other tasks wait for nobody.

Cost: up to `WAIT_S` for the other task, then a second. Threading: any thread. As in all clusters of TensorFlow, nothing
proves who connects; a connection that does not begin with the greeting is closed.
"""

import contextlib
import socket
import struct
import time

from tfps.choice.tasks import Tasks
from tfps.cluster.endpoints import canonicalize, split_address

WAIT_S = 10.0
"""How long the two tasks wait for each other. Tasks that start further apart have no measurement."""
_SEND_S = 1.0
_MOST_BYTES = 64 << 20
"""Enough to fill a network of 10 Gbit/s for 50 ms."""
_CHUNK = bytes(1 << 20)
_GREETING = b"tfps bandwidth 1\n"
_RESULT = struct.Struct("!d")
_RETRY_S = 0.1


def measure_bandwidth(tasks: Tasks, wait_s: float = WAIT_S) -> float | None:
    """Returns the bytes a second between two hosts, or None if this task is none of the two or the other does not come.

    Args:
        tasks: the tasks of the cluster, whose strategies have not started.
        wait_s: the most seconds to wait for the other task.
    """
    pair = _pair(tasks.addresses)
    if pair is None or tasks.address not in pair:
        return None
    try:
        if tasks.address == pair[0]:
            return _receive(split_address(pair[0])[1], time.monotonic() + wait_s)
        return _send(split_address(pair[0]), time.monotonic() + wait_s)
    except (OSError, struct.error):
        # A port that is taken, a name that is not known, a task that went away: the strategy itself says what is wrong.
        return None


def _pair(addresses: tuple[str, ...]) -> tuple[str, str] | None:
    """Returns the first task, and the first one of another host."""
    hosts = [split_address(canonicalize(address))[0] for address in addresses]
    other = next((index for index, host in enumerate(hosts) if host != hosts[0]), None)
    return None if other is None else (addresses[0], addresses[other])


def _receive(port: int, deadline: float) -> float | None:
    with socket.create_server(("", port)) as server:
        while (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                rate = _receive_from(connection)
                if rate is not None:
                    return rate
    return None


def _receive_from(connection: socket.socket) -> float | None:
    """Receives until the other task has sent everything, and tells it how fast that was; None for a stranger."""
    connection.settimeout(_SEND_S * 5)
    if _read_exactly(connection, len(_GREETING)) != _GREETING:
        return None
    received, start = 0, time.perf_counter()
    while part := connection.recv(len(_CHUNK)):
        received += len(part)
    rate = received / max(time.perf_counter() - start, 1e-6)
    connection.sendall(_RESULT.pack(rate))
    return rate


def _send(address: tuple[str, int], deadline: float) -> float | None:
    while (left := deadline - time.monotonic()) > 0:
        try:
            connection = socket.create_connection(address, timeout=left)
        except ConnectionRefusedError:
            # The other task does not listen yet.
            time.sleep(_RETRY_S)
            continue
        with connection:
            connection.settimeout(_SEND_S * 5)
            connection.sendall(_GREETING)
            end, sent = time.monotonic() + _SEND_S, 0
            while sent < _MOST_BYTES and time.monotonic() < end:
                connection.sendall(_CHUNK)
                sent += len(_CHUNK)
            connection.shutdown(socket.SHUT_WR)
            rate: float = _RESULT.unpack(_read_exactly(connection, _RESULT.size))[0]
            return rate
    return None


def _read_exactly(connection: socket.socket, count: int) -> bytes:
    """Reads some bytes; fewer if the connection ends."""
    data = b""
    while len(data) < count and (part := connection.recv(count - len(data))):
        data += part
    return data
