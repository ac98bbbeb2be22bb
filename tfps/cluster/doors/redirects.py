"""Where connections of this process to a task's address really go: through a tunnel, if there is one.

Threading: any thread. A redirect lasts until the process ends.
"""

import threading
from typing import TYPE_CHECKING

from tfps.errors import LibraryError

if TYPE_CHECKING:
    from tfps.cluster.doors.hooks import SocketHooks

_lock = threading.Lock()
_redirects: dict[str, str] = {}


def redirect(wanted: str, instead: str) -> None:
    """Leads this process's connections to one "address:port" to another one: those of TensorFlow, and those of tfps.

    Raises:
        LibraryError: TensorFlow's connections cannot be led elsewhere.
    """
    found = check_possible()
    with _lock:
        found.redirect(wanted, instead)
        _redirects[wanted] = instead


def check_possible() -> "SocketHooks":
    """Checks that `redirect` can work.

    Returns:
        The hooks at TensorFlow's connections.

    Raises:
        LibraryError: there are none.
    """
    # Imports TensorFlow, which `tfps-launch` does not need.
    from tfps.cluster.doors import hooks

    found = hooks.find()
    if found is None:
        raise LibraryError(
            "TLS must have the C++ operations of tfps, which lead TensorFlow's connections through the tunnel. They "
            "are not built, or not in use. Valid: install tfps with a C++ compiler, and leave TFPS_DISABLE_OPS unset."
        )
    return found


def resolve(address: str) -> str:
    """Returns the "host:port" to connect to for an address of the cluster."""
    with _lock:
        return _redirects.get(address, address)
