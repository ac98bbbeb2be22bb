"""`tfps-certs`: makes and renews the certificates of a cluster's hosts.

tfps-certs DIR 10.0.0.1 10.0.0.2 node3     an authority in DIR, and DIR/HOST for each host
TF_CONFIG='...' tfps-certs DIR             the hosts of TF_CONFIG
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from tfps.cli.command import USAGE_ERROR, Command
from tfps.cluster import logs, tf_config
from tfps.cluster.endpoints import split_address
from tfps.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

_FAILED = 1
_DAYS = 30.0
_MOST_DAYS = 3650.0

_DESCRIPTION = """
Makes an authority in DIR (ca.crt, ca.key) and a certificate for each host, in DIR/HOST: ca.crt, tls.crt and tls.key.
Copy DIR/HOST to that host, and name the copy to `tfps-launch --tls` or in TFPS_TLS_DIR. Keep DIR/ca.key where it is:
whoever has it can make certificates that the cluster accepts.

Hosts are named as in the cluster spec: by host name or by IP address, without the port. Without hosts it takes those of
TF_CONFIG.

A second run keeps the authority and renews the certificates. Running tasks take the new files without a stop.

Needs the package cryptography: pip install tfps[tls].
"""

COMMAND = Command("tfps-certs", "[flags] DIR [HOST ...]", _DESCRIPTION, intermixed=True)
_VALID_DAYS = flags.DEFINE_float(
    "days", _DAYS, f"Days that the certificates are valid (default {_DAYS:g}).", flag_values=COMMAND.flags
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments without the name of the command; None for the arguments of the process.

    Returns:
        The exit status: 1 if a file cannot be written, 2 for a wrong argument.

    Raises:
        SystemExit: with status 0 after `--help`, 2 after a message that names a wrong flag.
    """
    return _make(COMMAND.parse([COMMAND.name, *(sys.argv[1:] if argv is None else argv)]))


def run() -> None:
    """Runs `main` as an absl program, which ends the process. The installed script calls this."""
    COMMAND.run(_make)


def _make(arguments: list[str]) -> int:
    try:
        if len(arguments) < 2:
            raise ConfigError(
                "`DIR` must be given: the directory of the authority. Received: none. See `tfps-certs --help`."
            )
        if not 0 < _VALID_DAYS.value <= _MOST_DAYS:
            raise ConfigError(f"`--days` must be above 0 and at most {_MOST_DAYS:g}. Received: {_VALID_DAYS.value}.")
        hosts = list(dict.fromkeys(arguments[2:])) or _hosts_of_environment()
        for directory in _import_authority()(pathlib.Path(arguments[1]), hosts, _VALID_DAYS.value):
            print(directory)
        return 0
    except ConfigError as error:
        logs.say(f"error: {error}")
        return USAGE_ERROR
    except OSError as error:
        logs.say(f"error: {error}")
        return _FAILED


def _hosts_of_environment() -> list[str]:
    config = tf_config.from_environment()
    if config is None:
        raise ConfigError("`HOST` must be given, or TF_CONFIG set. Received: neither.")
    addresses = [address for job in config.cluster.as_dict().values() for address in job]
    return list(dict.fromkeys(split_address(address)[0] for address in addresses))


def _import_authority() -> "Callable[[pathlib.Path, Sequence[str], float], list[pathlib.Path]]":
    try:
        from tfps.cluster.tls.authority import write_certificates
    except ModuleNotFoundError as error:
        raise ConfigError(f"`tfps-certs` needs the package cryptography: pip install tfps[tls]. ({error})") from None
    return write_certificates


if __name__ == "__main__":
    run()
