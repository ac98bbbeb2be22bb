"""Tests whether tasks answer, before TensorFlow connects and waits without a limit.

An answer is the first byte of a gRPC server, which speaks first, within milliseconds. That a connection is accepted
says little: a tunnel or a proxy accepts for a task that is gone, and the kernel accepts for a process that is stopped.

Threading: any thread; the functions block up to their time limit. Cost: one connection per task and attempt.
"""

import contextlib
import errno
import socket
import time

from tfps import env
from tfps.cluster import logs
from tfps.cluster.doors import redirects
from tfps.cluster.endpoints import split_address
from tfps.cluster.spec import ClusterSpec
from tfps.errors import ClusterTimeoutError

CONNECT_S = 2.0
"""Seconds that one attempt to connect may take."""
_RETRY_S = 0.2
_REPORT_S = 10.0


def wait_for_servers(spec: ClusterSpec, timeout_s: float | None = None) -> None:
    """Waits until every parameter server and worker of the cluster answers.

    Args:
        spec: the addresses of the servers.
        timeout_s: the limit; by default TFPS_JOIN_TIMEOUT_S, else 120.

    Raises:
        ClusterTimeoutError: a server did not answer. The message names each such server, its address and the reason.
    """
    timeout_s = timeout_s or env.join_timeout_s()
    started = time.monotonic()
    next_report_s = _REPORT_S
    missing = find_unreachable(spec)
    # Tasks start in any order, so a refused connection is no failure until the limit has passed.
    while missing:
        waited_s = time.monotonic() - started
        if waited_s > timeout_s:
            raise ClusterTimeoutError(
                f"No answer within {timeout_s:g} s (TFPS_JOIN_TIMEOUT_S) from {_format_missing(missing)}. Every "
                "parameter server and worker must be running, with the same `cluster` in its TF_CONFIG."
            )
        if waited_s > next_report_s:
            logs.say(f"the chief waits for {_format_missing(missing)} ({waited_s:.0f} of {timeout_s:g} s)")
            next_report_s += _REPORT_S
        time.sleep(_RETRY_S)
        missing = find_unreachable(spec, only=missing)


def find_unreachable(spec: ClusterSpec, only: dict[str, str] | None = None) -> dict[str, str]:
    """Returns the servers that do not answer now: {"worker 1 at 10.0.0.5:2222": "Connection refused"}.

    Args:
        spec: the addresses of the servers.
        only: an earlier result; only its servers are tried again.
    """
    missing = {}
    for job, index, endpoint in spec.servers():
        key = f"{job} {index} at {endpoint}"
        if only is not None and key not in only:
            continue
        # Not the address it listens at: the server may listen while the service in front of it is not ready yet.
        try:
            connect_to_server(endpoint.dial).close()
        except OSError as error:
            missing[key] = error.strerror or str(error) or "timed out"
    return missing


def find_hung(spec: ClusterSpec, timeout_s: float = CONNECT_S) -> list[str]:
    """Finds servers that accept a connection and then say nothing: stopped processes, or deadlocked ones.

    Args:
        spec: the addresses of the servers.
        timeout_s: seconds to wait for each of them.

    Returns:
        Their names, "worker 1". A server that refuses the connection is dead, not hung: calls to it fail at once.
    """
    return [f"{job} {index}" for job, index, endpoint in spec.servers() if is_silent(endpoint.dial, timeout_s)]


def is_silent(address: str, timeout_s: float = CONNECT_S) -> bool:
    """Returns whether a process accepts a connection at "host:port" and then says nothing; see `find_hung`."""
    try:
        connect_to_server(address, timeout_s).close()
    except TimeoutError:
        return True
    except OSError:
        return False
    return False


def connect_to_server(address: str, timeout_s: float = CONNECT_S) -> socket.socket:
    """Opens a connection to the server at "host:port" and waits for its first byte.

    Raises:
        TimeoutError: there is a connection, or a host that does not answer, and no byte within the limit.
        ConnectionRefusedError: nobody listens, or who accepted the connection closed it without a byte.
        OSError: the connection failed in another way.
    """
    target = split_address(redirects.resolve(address))
    with contextlib.ExitStack() as stack:
        # A tunnel whose far end is not there closes the connection, or resets it.
        stack.enter_context(contextlib.suppress(ConnectionResetError))
        connection = stack.enter_context(socket.create_connection(target, timeout=timeout_s))
        if connection.recv(1):
            # The caller closes it.
            stack.pop_all()
            return connection
    raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection closed without an answer")


def answers(address: str) -> bool:
    """Returns whether a server speaks at "host:port". A gRPC server speaks first; a stopped process says nothing."""
    try:
        connect_to_server(address).close()
    except OSError:
        return False
    return True


def _format_missing(missing: dict[str, str]) -> str:
    return ", ".join(f"{task} ({reason})" for task, reason in missing.items())
