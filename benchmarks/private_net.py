"""Runs a program in a network of its own, so that it counts no other program's bytes on the loopback. Linux, root."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

_INSIDE = "--inside"


def has_private_net() -> bool:
    """Whether this process may make network namespaces and has the tools."""
    return os.geteuid() == 0 and all(map(shutil.which, ("unshare", "nsenter", "ip")))


def private(command: Sequence[str]) -> list[str]:
    """The command in a network namespace of its own; as it is where that cannot be had."""
    if not has_private_net():
        return list(command)
    return ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]


def measure_inside(
    module: str, parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], Mapping[str, object]]
) -> None:
    """Runs a benchmark in a network of its own: the command starts itself again there, and prints a line of JSON.

    Args:
        module: the module of the benchmark, as `python -m` takes it.
        parser: its flags.
        measure: measures by the flags, in the network.
    """
    parser.add_argument(_INSIDE, action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not has_private_net():
        parser.error("needs root, `unshare`, `nsenter` and `ip`.")
    if args.inside:
        print(json.dumps(measure(args)))
        return
    command = private([sys.executable, "-m", module, *sys.argv[1:], _INSIDE])
    raise SystemExit(subprocess.run(command).returncode)
