"""How a server knows that the chief has come, and that it is done, without a protocol of its own.

The chief listens on its TF_CONFIG address from the moment it connects to the cluster until its process ends, so a
server keeps an idle TCP connection to that port. The kernel closes it when the chief's process ends, however it ends;
if nobody listens there any more, the chief is done. If the chief's whole host is gone, TCP keepalive says so within
half a minute. TensorFlow closes such an idle connection now and then; then the server connects again.

Threading: the two functions block the thread they are called in. Cost: one socket, no traffic but keepalives.
"""

import contextlib
import socket
import time

from tfps.cluster import logs, reach
from tfps.errors import ClusterTimeoutError

_RETRY_S = 0.2
_REPORT_S = 10.0
_CLOSED_GRACE_S = 2.0
_SILENT_GRACE_S = 30.0


def wait_for_chief(task: str, address: str, timeout_s: float) -> None:
    """Waits until the chief listens at `address`.

    Raises:
        ClusterTimeoutError: it does not within `timeout_s`.
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
    """Waits until the chief that listened at `address` is gone. No limit: it ends with the chief.

    Args:
        address: the chief's "host:port".
        grace_s: seconds it may be gone for before that counts; None for 2 s after its port is closed and 30 s after
            its host stopped answering.
    """
    gone_since: float | None = None
    while True:
        try:
            connection = reach.connect(address)
        except OSError as error:
            # A refusal right after a close is the usual end. It may also be a chief that is started again, so it has
            # to last for `grace_s`.
            now = time.monotonic()
            gone_since = now if gone_since is None else gone_since
            if now - gone_since >= (grace_s or _default_grace_s(error)):
                return
            time.sleep(_RETRY_S)
        else:
            # It listens again, or still: TensorFlow only closed the idle connection.
            gone_since = None
            with connection:
                _wait_until_closed(connection)


def _try_connect(address: str) -> str | None:
    try:
        reach.connect(address).close()
    except OSError as error:
        return error.strerror or str(error) or "timed out"
    return None


def _default_grace_s(error: OSError) -> float:
    return _CLOSED_GRACE_S if isinstance(error, ConnectionRefusedError) else _SILENT_GRACE_S


def _wait_until_closed(connection: socket.socket) -> None:
    connection.settimeout(None)
    _keep_alive(connection)
    with contextlib.suppress(OSError):  # a reset, or keepalive gave up: closed as well
        while connection.recv(4096):
            pass


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # First probe after 10 s of silence, then one every 5 s, dead after 3 without an answer.
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
