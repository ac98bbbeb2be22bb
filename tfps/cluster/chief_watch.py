"""Lets a server detect that the chief has started and that it has finished, without a protocol between them.

The chief's own TensorFlow server runs from the moment it connects to the cluster until its process ends. It speaks
first on every connection, so its first byte shows that the chief is there; an open port would not, because a tunnel or
a proxy keeps one open. A server then keeps the connection, idle. The kernel, or the tunnel, closes it when the chief's
process ends, for whatever reason; if nobody answers at the address any more, the chief is done. If the chief's whole
host is gone, TCP keepalive detects it within half a minute. TensorFlow closes an idle connection now and then; the
server reconnects.

Threading: both functions block the calling thread. Cost: one socket, no traffic except keepalives.
"""

import contextlib
import socket
import time

from tfps.cluster import logs, reach
from tfps.errors import ClusterTimeoutError

_RETRY_S = 0.2
_REPORT_S = 10.0
# A connection that is refused, or closed at once, is proof that the chief's server is gone; silence may also be a
# network that recovers.
_CLOSED_GRACE_S = 2.0
_SILENT_GRACE_S = 30.0


def wait_for_chief(task: str, address: str, timeout_s: float) -> None:
    """Waits until the chief answers at `address`.

    Raises:
        ClusterTimeoutError: the chief does not answer within `timeout_s`.
    """
    # The wall clock may jump where hosts set it at boot; the monotonic one does not.
    started = time.monotonic()
    next_report_s = _REPORT_S
    while (refusal := _try_connect(address)) is not None:
        waited_s = time.monotonic() - started
        if waited_s > timeout_s:
            raise ClusterTimeoutError(
                f"{task} waited {timeout_s:g} s (TFPS_JOIN_TIMEOUT_S) for the chief at {address}, which never came: "
                f'{refusal}. Start the program with `task.type` "chief" on that host.'
            )
        if waited_s > next_report_s:
            logs.say(f"{task} waits for the chief at {address} ({waited_s:.0f} of {timeout_s:g} s)")
            next_report_s += _REPORT_S
        time.sleep(_RETRY_S)


def wait_until_done(address: str, grace_s: float | None) -> None:
    """Waits, without a time limit, until the chief at `address` has ended.

    Args:
        address: the chief's "host:port".
        grace_s: seconds without the chief after which it counts as ended. None: 2 s if the connection is refused or
            closed at once, 30 s if nothing answers.
    """
    gone_since: float | None = None
    while True:
        try:
            connection = reach.connect_to_server(address)
        except OSError as error:
            # A refusal right after a close usually means that the chief has ended. It may also be restarting, so the
            # refusal has to last for `grace_s`.
            now = time.monotonic()
            gone_since = now if gone_since is None else gone_since
            if now - gone_since >= (grace_s or _default_grace_s(error)):
                return
            time.sleep(_RETRY_S)
        else:
            # The chief is there: it was restarted, or TensorFlow only closed the idle connection.
            gone_since = None
            with connection:
                _wait_until_closed(connection)


def _try_connect(address: str) -> str | None:
    try:
        reach.connect_to_server(address).close()
    except OSError as error:
        return error.strerror or str(error) or "timed out"
    return None


def _default_grace_s(error: OSError) -> float:
    return _CLOSED_GRACE_S if isinstance(error, ConnectionRefusedError) else _SILENT_GRACE_S


def _wait_until_closed(connection: socket.socket) -> None:
    connection.settimeout(None)
    _enable_keepalive(connection)
    # An OSError (a reset, or keepalive gave up) means closed, too.
    with contextlib.suppress(OSError):
        while connection.recv(4096):
            pass


def _enable_keepalive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # The kernel sends the first probe after 10 s of silence and then one every 5 s; three lost probes mean dead.
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
