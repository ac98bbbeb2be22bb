"""The configuration of a task's tunnel, as the program stunnel reads it, and where that program is.

    task -> 127.0.0.1:PORT [its stunnel] == TLS 1.3 ==> ADDRESS [stunnel of a peer] -> the peer's server, on loopback

Both sides show a certificate of the one authority, and both check that it is for the host that the cluster spec names.

Pure functions and immutable values: any thread, microseconds.
"""

import dataclasses
import ipaddress
import shutil
from collections.abc import Sequence

from tfps.cluster.endpoints import split_address
from tfps.cluster.tls.files import TlsFiles
from tfps.errors import ConfigError

INCOMING = "in"
"""The service that takes connections of other tasks."""

_PROGRAMS = ("stunnel4", "stunnel")
# Daemons are in directories that are not on everyone's PATH.
_SEARCHED = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"

_GLOBAL = """\
foreground = yes
pid =
syslog = no
debug = 5
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
socket = l:SO_KEEPALIVE=1
socket = r:SO_KEEPALIVE=1
socket = l:TCP_KEEPIDLE=10
socket = r:TCP_KEEPIDLE=10
socket = l:TCP_KEEPINTVL=5
socket = r:TCP_KEEPINTVL=5
socket = l:TCP_KEEPCNT=3
socket = r:TCP_KEEPCNT=3
sslVersionMin = TLSv1.3
sessionResume = no
verifyChain = yes
TIMEOUTidle = 31536000
TIMEOUTclose = 0
"""
"""debug 5 names every peer. A connection of a task may be idle for days, and keepalives find hosts that are gone, as in
`chief_watch`. Without resumption every connection checks the certificates that are valid now."""


@dataclasses.dataclass(frozen=True)
class Peer:
    """Another task, as the tunnel sees it.

    Args:
        name: the task's name: "ps 0".
        outer: the "host:port" in the cluster spec, where its tunnel listens.
        door: the "address:port" on loopback that leads to it.
    """

    name: str
    outer: str
    door: str

    @property
    def service(self) -> str:
        """The name of its service in the configuration and in stunnel's log."""
        return self.name.replace(" ", "-")


def find_stunnel() -> str:
    """Returns the path of stunnel.

    Raises:
        ConfigError: it is not installed.
    """
    for name in _PROGRAMS:
        path = shutil.which(name) or shutil.which(name, path=_SEARCHED)
        if path:
            return path
    raise ConfigError(
        f"TLS between tasks must have the program stunnel (5.57 or newer), which is not installed: none of "
        f"{', '.join(_PROGRAMS)} is on the PATH. Valid: `apt-get install stunnel4` on Debian and Ubuntu, "
        "`dnf install stunnel` on Fedora."
    )


def make_config(files: TlsFiles, outer: str, inner: str, peers: Sequence[Peer]) -> str:
    """Returns the configuration of a task's tunnel.

    Args:
        files: the task's certificate, key and authority.
        outer: the "address:port" at which the tunnel listens for other tasks.
        inner: the "address:port" on loopback at which the task's TensorFlow listens.
        peers: all other tasks.
    """
    credentials = f"CAfile = {files.authority}\ncert = {files.certificate}\nkey = {files.key}\n"
    hosts = dict.fromkeys(split_address(peer.outer)[0] for peer in peers)
    # Any of the hosts: a connection does not say which task it comes from.
    incoming = [f"accept = {_format(outer)}", f"connect = {_format(inner)}", "requireCert = yes", *map(_check, hosts)]
    services = [_service(INCOMING, incoming)]
    for peer in peers:
        # delay: the name of a pod that is started again gets another address.
        lines = ["client = yes", f"accept = {_format(peer.door)}", f"connect = {_format(peer.outer)}", "delay = yes"]
        services.append(_service(peer.service, [*lines, _check(split_address(peer.outer)[0])]))
    return "\n".join([_GLOBAL + credentials, *services])


def _service(name: str, lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in (f"[{name}]", *lines))


def _check(host: str) -> str:
    """Returns the line that accepts certificates for a host."""
    try:
        return f"checkIP = {ipaddress.ip_address(host)}"
    except ValueError:
        return f"checkHost = {host}"


def _format(address: str) -> str:
    # stunnel splits at the last colon and knows no brackets.
    host, port = split_address(address)
    return f"{host}:{port}"
