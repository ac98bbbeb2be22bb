"""`tfps-launch`: one command that runs a program on a parameter-server cluster.

tfps-launch --ps 2 --workers 4 train.py --epochs 3      a cluster of this machine
TF_CONFIG='...' tfps-launch train.py                     the one role that TF_CONFIG gives
"""

import sys
from collections.abc import Sequence

from absl import flags

from tfps.cli.command import USAGE_ERROR, Command, define_alias
from tfps.cluster import launcher, logs, tf_config
from tfps.errors import ConfigError

_DEFAULT_PS = 1
_DEFAULT_WORKERS = 2

_DESCRIPTION = """
Runs a program (a Python file or a command) on a parameter-server cluster.

Without TF_CONFIG it starts parameter servers, workers and the program (as the chief) on this machine, puts the name
of its task before every line they write, and returns the program's exit status; it returns 1 and names the task if a
server dies. With TF_CONFIG it runs that one role: the chief runs the program, parameter servers and workers serve
without running it until the chief is done.

Flags come before the program; what follows its name is the program's own.
"""


class _CountParser(flags.ArgumentParser):
    """Parses a number of tasks."""

    def parse(self, argument: str) -> int:
        """The number.

        Raises:
            ValueError: it is not an integer of at least 1.
        """
        text = str(argument)
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"must be an integer of at least 1. Received: {text!r}.")
        return int(text)

    def flag_type(self) -> str:
        """The type's name in a help text."""
        return "int"


# Not intermixed: `tfps-launch --ps 2 train.py --ps 7` gives the program its own `--ps 7`.
COMMAND = Command("tfps-launch", "[flags] program [arguments of the program]", _DESCRIPTION, intermixed=False)


def _define_count(name: str, help_text: str) -> flags.FlagHolder:
    return flags.DEFINE(_CountParser(), name, None, help_text, COMMAND.flags, flags.ArgumentSerializer())


# No default values here: a count that was given is an error where TF_CONFIG names the cluster.
_PS = _define_count("ps", f"Parameter servers (default {_DEFAULT_PS}).")
_WORKERS = _define_count("workers", f"Workers (default {_DEFAULT_WORKERS}).")
_LOG_DIR = flags.DEFINE_string("log-dir", None, "Keep a log file of each task there.", flag_values=COMMAND.flags)
define_alias(COMMAND.flags, "log-dir")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: the program's, 1 if a server failed, 2 for a wrong setting.

    Args:
        argv: arguments without the command's name; those of the process where None.

    Raises:
        SystemExit: with status 0 after `--help`, 2 after a message that names a wrong flag.
    """
    return _launch(COMMAND.parse([COMMAND.name, *(sys.argv[1:] if argv is None else argv)]))


def run() -> None:
    """What the installed script calls: `main` as an absl program, which ends the process."""
    COMMAND.run(_launch)


def _launch(arguments: list[str]) -> int:
    program = tuple(arguments[1:])
    try:
        config = tf_config.from_environment()
        if config is not None:
            _check_no_counts(config)
            # Becomes the program or a server; this process does not come back.
            launcher.run_role(config, program)
        return launcher.run_local(_plan(program))
    except ConfigError as error:
        logs.say(f"error: {error}")
        return USAGE_ERROR


def _check_no_counts(config: tf_config.TaskConfig) -> None:
    if _PS.value is not None or _WORKERS.value is not None:
        raise ConfigError(
            f"`--ps` and `--workers` must be left out where TF_CONFIG names the cluster (this is its {config.name}); "
            f"unset TF_CONFIG to start one here. Received: --ps {_PS.value}, --workers {_WORKERS.value}."
        )


def _plan(program: tuple[str, ...]) -> launcher.LaunchPlan:
    num_ps, num_workers = _PS.value or _DEFAULT_PS, _WORKERS.value or _DEFAULT_WORKERS
    plan = launcher.LaunchPlan(program, num_ps, num_workers, _LOG_DIR.value)
    reason = "TF_CONFIG is unset" if _PS.value is None and _WORKERS.value is None else "as asked"
    logs.say(f"{reason}: starting {num_ps} parameter server(s) and {num_workers} worker(s) on this machine")
    return plan


if __name__ == "__main__":
    run()
