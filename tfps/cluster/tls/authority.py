"""Makes an authority and a certificate for each host of a cluster, over the package `cryptography`.

    DIR/ca.crt  DIR/ca.key                        the authority; the key stays where the certificates are made
    DIR/HOST/ca.crt  tls.crt  tls.key             what the tasks on HOST get: their TFPS_TLS_DIR

The names are those of a secret that cert-manager makes, which serves as well. A second call keeps the authority and
renews the certificates; running tasks take the new ones without a stop.

Threading: one caller at a time for a directory. Cost: a millisecond for each certificate.
"""

import contextlib
import datetime
import ipaddress
import os
import pathlib
import re
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tfps.cluster.tls.files import AUTHORITY, CERTIFICATE, KEY
from tfps.errors import ConfigError

_AUTHORITY_KEY = "ca.key"
_AUTHORITY_DAYS = 3650
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
_BACKDATED = datetime.timedelta(hours=1)
"""Clocks of hosts differ: a certificate that is valid from now on is not yet valid on a host whose clock is slow."""


def write_certificates(directory: pathlib.Path, hosts: Sequence[str], days: float) -> list[pathlib.Path]:
    """Writes the certificates of all hosts, and the authority if there is none yet.

    Args:
        directory: where the authority is, and a directory for each host. It is made if it does not exist.
        hosts: host names and IP addresses, as the cluster spec has them.
        days: for how many days the certificates are valid.

    Returns:
        The directory of each host.

    Raises:
        ConfigError: a host is no host name or IP address, or the authority in the directory cannot be used.
        OSError: a file cannot be written.
    """
    for host in hosts:
        _check_host(host)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority, key = _open_authority(directory)
    return [_write_host(directory / host, host, authority, key, days) for host in hosts]


def _check_host(host: str) -> None:
    # It becomes the name of a directory, so "../x" must not pass.
    if not _NAME.fullmatch(host) and not isinstance(_general_name(host), x509.IPAddress):
        raise ConfigError(f"`host` must be a host name or an IP address, without a port. Received: {host!r}.")


def _open_authority(directory: pathlib.Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Returns the authority of a directory and its key; makes both if there are none."""
    certificate_path, key_path = directory / AUTHORITY, directory / _AUTHORITY_KEY
    if not certificate_path.exists() and not key_path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tfps cluster authority")])
        certificate = _make_authority(name, key)
        _write(key_path, _key_bytes(key))
        _write(certificate_path, certificate.public_bytes(serialization.Encoding.PEM))
        return certificate, key
    try:
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        loaded = serialization.load_pem_private_key(key_path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"the authority must be {AUTHORITY} and {_AUTHORITY_KEY}. Received: {str(directory)!r}, where {error}."
        ) from None
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != certificate.public_key():
        raise ConfigError(f"{AUTHORITY} and {_AUTHORITY_KEY} must belong together. Received: {str(directory)!r}.")
    return certificate, loaded


def _make_authority(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    return (
        _builder(name, name, key.public_key(), _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _write_host(
    directory: pathlib.Path, host: str, authority: x509.Certificate, key: ec.EllipticCurvePrivateKey, days: float
) -> pathlib.Path:
    own = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    certificate = (
        _builder(name, authority.subject, own.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        # A task is the server of one connection and the client of another.
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    directory.mkdir(mode=0o700, exist_ok=True)
    # The key first: a task that looks in between sees a certificate that does not fit, and looks again.
    _write(directory / KEY, _key_bytes(own))
    _write(directory / CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM))
    _write(directory / AUTHORITY, authority.public_bytes(serialization.Encoding.PEM))
    return directory


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # Days below 0 are for tests of certificates that have expired.
        .not_valid_before(now - _BACKDATED + min(datetime.timedelta(days=days), datetime.timedelta()))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _key_usage(**given: bool) -> x509.KeyUsage:
    return x509.KeyUsage(**(dict.fromkeys(_USAGES, False) | given))


def _general_name(host: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    return x509.DNSName(host)


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def _write(path: pathlib.Path, data: bytes) -> None:
    """Replaces a file at once, readable by its owner alone."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(data)
    os.replace(temporary, path)
