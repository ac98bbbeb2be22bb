"""`tfps-launch`: one command that runs a program on a parameter-server cluster.

tfps-launch --ps 2 --workers 4 train.py --epochs 3      a cluster of this machine
TF_CONFIG='...' tfps-launch train.py                     the one role that TF_CONFIG gives
"""

import argparse
from collections.abc import Sequence

from tfps.cluster import launcher, logs, tf_config
from tfps.errors import ConfigError

_DEFAULT_PS = 1
_DEFAULT_WORKERS = 2
_USAGE_ERROR = 2

_DESCRIPTION = """\
Runs a program on a parameter-server cluster.

Without TF_CONFIG it starts parameter servers, workers and the program (as the chief) on this machine, puts the name
of its task before every line they write, and returns the program's exit status; it returns 1 and names the task if a
server dies. With TF_CONFIG it runs that one role: the chief runs the program, parameter servers and workers serve
without running it until the chief is done."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: the program's, 1 if a server failed, 2 for a wrong setting."""
    arguments = _parser().parse_args(argv)
    program = tuple(arguments.program[1:] if arguments.program[:1] == ["--"] else arguments.program)
    try:
        config = tf_config.from_environment()
        if config is not None:
            _check_no_counts(arguments, config)
            launcher.run_role(config, program)
        return launcher.run_local(_plan(arguments, program))
    except ConfigError as error:
        logs.say(f"error: {error}")
        return _USAGE_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tfps-launch", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ps", type=_count, metavar="N", help=f"parameter servers (default {_DEFAULT_PS})")
    parser.add_argument("--workers", type=_count, metavar="N", help=f"workers (default {_DEFAULT_WORKERS})")
    parser.add_argument("--log-dir", metavar="DIR", help="keep a log file of each task there")
    parser.add_argument("program", nargs=argparse.REMAINDER, help="a Python file (or a command) and its arguments")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1. Received: {text!r}.")
    return int(text)


def _check_no_counts(arguments: argparse.Namespace, config: tf_config.TaskConfig) -> None:
    if arguments.ps is not None or arguments.workers is not None:
        raise ConfigError(
            f"`--ps` and `--workers` must be left out where TF_CONFIG names the cluster (this is its {config.name}); "
            f"unset TF_CONFIG to start one here. Received: --ps {arguments.ps}, --workers {arguments.workers}."
        )


def _plan(arguments: argparse.Namespace, program: tuple[str, ...]) -> launcher.LaunchPlan:
    num_ps = arguments.ps or _DEFAULT_PS
    num_workers = arguments.workers or _DEFAULT_WORKERS
    plan = launcher.LaunchPlan(program, num_ps, num_workers, arguments.log_dir)
    chosen = "TF_CONFIG is unset" if arguments.ps is None and arguments.workers is None else "as asked"
    logs.say(f"{chosen}: starting {num_ps} parameter server(s) and {num_workers} worker(s) on this machine")
    return plan
