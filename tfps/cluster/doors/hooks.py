"""The C++ hooks at TensorFlow's calls of `bind` and `connect` (`tfps_ops/sockets/socket_hooks.cc`).

TensorFlow's server binds every interface of its host, whatever address the cluster names, and has no setting for that.

Threading: any thread; `listen_at` counts for the calling thread alone. Ownership: a redirect lasts until the process
ends. Cost: the first `find` walks the tables of TensorFlow's library, 30 ms.
"""

import contextlib
import ctypes
import functools
from collections.abc import Iterator

from tfps.cluster.endpoints import split_address
from tfps.errors import ConfigError
from tfps.ops import library

_TENSORFLOW = b"libtensorflow_cc"
_BOTH = 3


class SocketHooks:
    """The hooks of this process.

    Args:
        compiled: the library of C++ ops.
    """

    def __init__(self, compiled: ctypes.CDLL) -> None:
        self._compiled = compiled

    @contextlib.contextmanager
    def listen_at(self, host: str) -> Iterator[None]:
        """Makes servers that TensorFlow starts in the block, in this thread, listen at `host` alone, an IP address."""
        if not self._compiled.TfpsListenAt(host.encode()):
            raise ConfigError(f"`host` must be an IP address. Received: {host!r}.")
        try:
            yield
        finally:
            self._compiled.TfpsListenAt(None)

    def redirect(self, wanted: str, instead: str) -> None:
        """Leads TensorFlow's connections to one "host:port" to another one. Both hosts are IP addresses."""
        (host, port), (other, other_port) = split_address(wanted), split_address(instead)
        if not self._compiled.TfpsRedirect(host.encode(), port, other.encode(), other_port):
            raise ConfigError(f"both hosts must be IP addresses. Received: {wanted!r} and {instead!r}.")


@functools.cache
def _hook() -> SocketHooks | None:
    # TensorFlow has loaded the library, so this is the same one again and not a copy.
    compiled = ctypes.CDLL(str(library.path()))
    if not hasattr(compiled, "TfpsHookSockets") or compiled.TfpsHookSockets(_TENSORFLOW) != _BOTH:
        return None
    return SocketHooks(compiled)


def find() -> SocketHooks | None:
    """Returns the hooks, or None without the C++ library, or where TensorFlow's library has no known place for them."""
    return _hook() if library.available() else None
