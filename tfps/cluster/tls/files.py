"""The three files of a TFPS_TLS_DIR: what they are called, and whether a task can use them.

Their names are those of a secret that cert-manager makes. OpenSSL reads them, as certificates and keys, and nothing
else does.

Threading: any thread. Cost: reading three small files; `check` makes a TLS handshake in memory, some milliseconds.
"""

import dataclasses
import os
import pathlib
import ssl

from tfps.errors import ConfigError

AUTHORITY = "ca.crt"
CERTIFICATE = "tls.crt"
KEY = "tls.key"

_ROUNDS = 10
"""More messages than a handshake has."""


@dataclasses.dataclass(frozen=True)
class TlsFiles:
    """The authority, the certificate and the key of a task.

    Args:
        directory: where they are.
    """

    directory: pathlib.Path

    @property
    def authority(self) -> pathlib.Path:
        """The certificate of the authority whose certificates are accepted."""
        return self.directory / AUTHORITY

    @property
    def certificate(self) -> pathlib.Path:
        """The task's own certificate, and those between it and the authority."""
        return self.directory / CERTIFICATE

    @property
    def key(self) -> pathlib.Path:
        """The key of the certificate, without a password."""
        return self.directory / KEY

    def version(self) -> tuple[tuple[int, int, int], ...]:
        """Returns a value that changes when a file is replaced, also by a link to another one; () if one is missing."""
        try:
            found = [os.stat(path) for path in (self.authority, self.certificate, self.key)]
        except OSError:
            return ()
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)

    def check(self, host: str) -> str:
        """Checks that other tasks will accept the certificate.

        Args:
            host: the host name or IP address by which the other tasks know this one.

        Returns:
            The end of the certificate's validity, as OpenSSL writes it: "Dec 30 12:00:00 2026 GMT".

        Raises:
            ConfigError: a file is missing or broken, or the certificate has expired, is of another authority, or is for
                another host.
        """
        try:
            server, client = (self._context(side) for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT))
            return _shake_hands(server, client, host)
        except ssl.SSLCertVerificationError as error:
            reason = error.verify_message
        except ssl.SSLError as error:
            reason = f"{KEY} and {CERTIFICATE} must be a key and its certificate ({error.reason or error})"
        except OSError as error:
            reason = f"{error.strerror or error}"
        raise ConfigError(
            f"the TLS directory must have {AUTHORITY}, {CERTIFICATE} and {KEY}, valid now and for the host {host!r}. "
            f"Received: {str(self.directory)!r}: {reason}. Valid: what `tfps-certs` or cert-manager makes."
        )

    def _context(self, side: int) -> ssl.SSLContext:
        # Opened here, because OpenSSL does not say which file it misses.
        for path in (self.authority, self.certificate, self.key):
            with open(path, "rb"):
                pass
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # A key with a password would make OpenSSL ask for it on the terminal.
        context.load_cert_chain(self.certificate, self.key, password=lambda: "")
        context.load_verify_locations(self.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str:
    """Lets the two sides check each other in memory; returns the end of the certificate's validity."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = sides
    for _ in range(_ROUNDS):
        waiting = [side for side in waiting if not _advance(side)]
    if waiting:
        raise ssl.SSLError("the handshake does not end")
    certificate = sides[0].getpeercert() or {}
    return str(certificate.get("notAfter", ""))


def _advance(side: ssl.SSLObject) -> bool:
    """Does what can be done of one side's handshake; returns whether it is done."""
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
