"""Starts a server of TensorFlow so that it listens at one address alone, and checks that it does.

With the C++ library, the server binds that address from the start (`hooks.py`). Without it TensorFlow binds every
interface. Then a server on loopback is closed to other hosts some milliseconds later, and for any other address a
warning says that it is open.

Threading: the thread that starts the server. Cost: some milliseconds.
"""

import contextlib
import logging
from collections.abc import Callable

from tfps.cluster.doors import hooks, listeners
from tfps.cluster.endpoints import is_loopback
from tfps.errors import ClusterError

_LOG = logging.getLogger("tfps")
_ALL = ("0.0.0.0", "::")


def start_listening(task: str, host: str, start: Callable[[], int]) -> None:
    """Starts a server and makes sure that it listens at `host` alone.

    Args:
        task: the task's name in messages.
        host: an IP address, or 0.0.0.0 or :: for every interface.
        start: starts the server in the calling thread, and returns its port.

    Raises:
        ClusterError: the server on loopback cannot be closed to other hosts.
    """
    if host in _ALL:
        start()
        return
    found = hooks.find()
    with found.listen_at(host) if found else contextlib.nullcontext():
        port = start()
    try:
        open_to_all = [one for one in listeners.own_listeners(port) if one.is_open_to_all]
    except OSError as error:
        if found is None:
            _LOG.warning("%s may listen on every interface: the kernel does not say (%s).", task, error)
        return
    if open_to_all:
        _close(task, host, port, open_to_all)


def _close(task: str, host: str, port: int, open_to_all: list[listeners.Listener]) -> None:
    if not is_loopback(host):
        # A socket that is kept to one device refuses what this host itself sends to the address.
        _LOG.warning(
            "%s listens on every interface, and not at %s alone: that needs the C++ operations of tfps, which are not "
            "built or not in use. Anyone who reaches port %d can run any operation.",
            task,
            host,
            port,
        )
        return
    try:
        for listener in open_to_all:
            listener.keep_to_loopback()
    except OSError as error:
        raise ClusterError(
            f"{task} must listen on loopback alone, but TensorFlow listens on every interface at port {port}, and the "
            f"kernel refuses to change that ({error.strerror}). Valid: install tfps with its C++ operations."
        ) from None
