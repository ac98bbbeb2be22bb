"""`tfps-launch`: runs a program on a parameter-server cluster.

tfps-launch --ps 2 --workers 4 train.py --epochs 3       a cluster on this machine
TF_CONFIG='...' tfps-launch train.py                     the one role that TF_CONFIG names
srun --ntasks=7 tfps-launch --ps 2 train.py              a cluster of the tasks of a SLURM step
mpirun -n 7 tfps-launch --ps 2 train.py                  a cluster of the processes of Open MPI
TF_CONFIG='...' tfps-launch --tls DIR train.py           any of the last three, by mutual TLS
tfps-launch --kubernetes --image IMAGE train.py          prints the manifest of a cluster in Kubernetes
"""

import os
import sys
from collections.abc import Sequence

from absl import flags

from tfps import env
from tfps.cli.command import USAGE_ERROR, Command, define_alias
from tfps.cluster import launcher, logs, tf_config
from tfps.cluster.environments.find import find_task
from tfps.cluster.environments.kubernetes import Deployment
from tfps.cluster.environments.roles import RoleCounts
from tfps.cluster.tf_config import TaskConfig
from tfps.errors import ClusterError, ConfigError

_FAILED = 1
_DEFAULT_PS = 1
_DEFAULT_WORKERS = 2
_DEFAULT_NAME = "tfps"

_DESCRIPTION = """
Runs a program (a Python file or a command) on a parameter-server cluster.

On one machine it starts parameter servers, workers and the program (as the chief). It prefixes every line of output
with the name of its task, and returns the exit status of the program. If a server dies, it names the task and
returns 1.

With TF_CONFIG, or as one of several tasks of `srun` or Open MPI's `mpirun`, it runs one role: the chief runs the
program, and parameter servers and workers serve until the chief is done, without running it. Tasks of `srun` and
`mpirun` get their roles from their ranks: rank 0 is the chief, then each host in turn gives a parameter server, and the
others are workers.

With --tls DIR, tasks of TF_CONFIG, srun and mpirun talk to one another by mutual TLS alone. DIR has the files ca.crt,
tls.crt and tls.key of this host, which `tfps-certs` or cert-manager makes.

With --kubernetes it starts nothing and prints a manifest, for `kubectl apply -f -`.

Flags come before the program. All arguments after its name go to the program.
"""


class _CountParser(flags.ArgumentParser):
    """Parses the number of tasks of a job."""

    def parse(self, argument: str) -> int:
        """Returns the number.

        Raises:
            ValueError: the argument is not an integer of at least 1.
        """
        # absl calls this again with a parsed number when a flag is set from Python.
        text = str(argument)
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"must be an integer of at least 1. Received: {text!r}.")
        return int(text)

    def flag_type(self) -> str:
        """Returns the name of the type for the help text."""
        return "int"


# Not intermixed: in `tfps-launch --ps 2 train.py --ps 7` the program gets its own `--ps 7`.
COMMAND = Command("tfps-launch", "[flags] program [arguments of the program]", _DESCRIPTION, intermixed=False)


def _define_count(name: str, help_text: str) -> flags.FlagHolder:
    return flags.DEFINE(_CountParser(), name, None, help_text, COMMAND.flags, flags.ArgumentSerializer())


# The counts have no default here, because any count on the command line is an error if TF_CONFIG names the cluster.
_PS = _define_count("ps", f"Parameter servers (default {_DEFAULT_PS}; with srun or mpirun, one for every two workers).")
_WORKERS = _define_count("workers", f"Workers (default {_DEFAULT_WORKERS}; with srun or mpirun, all other tasks).")
_LOG_DIR = flags.DEFINE_string(
    "log-dir", None, "Write a log file for each task to this directory.", flag_values=COMMAND.flags
)
define_alias(COMMAND.flags, "log-dir")
_KUBERNETES = flags.DEFINE_boolean(
    "kubernetes", False, "Print the manifest of a StatefulSet and Jobs, and start nothing.", flag_values=COMMAND.flags
)
_JOBSET = flags.DEFINE_boolean(
    "jobset", False, "With --kubernetes: a JobSet, which ends as a whole.", flag_values=COMMAND.flags
)
_IMAGE = flags.DEFINE_string(
    "image", None, "With --kubernetes: the container image, with the program and tfps.", flag_values=COMMAND.flags
)
_NAME = flags.DEFINE_string(
    "name", None, f"With --kubernetes: the name of its objects (default {_DEFAULT_NAME}).", flag_values=COMMAND.flags
)


_TLS = flags.DEFINE_string(
    "tls", None, "The directory of this task's certificate: talk to other tasks by TLS.", flag_values=COMMAND.flags
)


LAST_PORT = 65_535
_METRICS_PORT = _define_count(
    "metrics-port",
    "Serve metrics to Prometheus: the chief at this port, on this machine each other task at one of the next.",
)
define_alias(COMMAND.flags, "metrics-port")
_METRICS_HOST = flags.DEFINE_string(
    "metrics-host", None, "The address of these ports (default 127.0.0.1).", flag_values=COMMAND.flags
)
define_alias(COMMAND.flags, "metrics-host")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments without the name of the command; None for the arguments of the process.

    Returns:
        The exit status: the status of the program, 1 if a server failed, or 2 for a wrong setting.

    Raises:
        SystemExit: with status 0 after `--help`, 2 after a message that names a wrong flag.
    """
    return _launch(COMMAND.parse([COMMAND.name, *(sys.argv[1:] if argv is None else argv)]))


def run() -> None:
    """Runs `main` as an absl program, which ends the process. The installed script calls this."""
    COMMAND.run(_launch)


def _launch(arguments: list[str]) -> int:
    program = tuple(arguments[1:])
    try:
        _check_kubernetes_flags()
        if _KUBERNETES.value:
            print(_deployment(program).manifest(), end="")
            return 0
        config = _find_task()
        _set_tls(config)
        _set_metrics(1 if config is not None else 1 + sum(_counts()))
        if config is not None:
            # This process becomes the program or a server, so the call does not return.
            launcher.run_role(config, program)
        return launcher.run_local(_plan(program))
    except ConfigError as error:
        logs.say(f"error: {error}")
        return USAGE_ERROR
    except ClusterError as error:
        logs.say(f"error: {error}")
        return _FAILED


def _check_kubernetes_flags() -> None:
    """Checks that flags of a manifest and flags of a start on this machine are not mixed."""
    for flag in (_JOBSET, _IMAGE, _NAME):
        if flag.value and not _KUBERNETES.value:
            raise ConfigError(f"`--{flag.name}` must be given with --kubernetes only. Received: {flag.value!r}.")
    if _KUBERNETES.value and _TLS.value:
        raise ConfigError(
            "`--tls` must be left out with --kubernetes. "
            f"Received: {_TLS.value!r}. Valid: a secret in the manifest, as docs/security.md shows."
        )
    if _KUBERNETES.value and _METRICS_HOST.value:
        raise ConfigError(
            "`--metrics-host` must be left out with --kubernetes, where each pod has an address of its own. "
            f"Received: {_METRICS_HOST.value!r}."
        )
    if _KUBERNETES.value and _LOG_DIR.value:
        raise ConfigError(
            "`--log-dir` must be left out with --kubernetes, where `kubectl logs` shows the logs. "
            f"Received: {_LOG_DIR.value!r}."
        )


def _set_metrics(tasks: int) -> None:
    """Passes `--metrics-port` and `--metrics-host` on to all tasks that start here.

    Args:
        tasks: the number of tasks that start here, each with a port.

    Raises:
        ConfigError: one of the two is wrong. It stops the launcher, and not its tasks one by one.
    """
    port, host = _METRICS_PORT.value, _METRICS_HOST.value
    if port is not None:
        if port > LAST_PORT:
            raise ConfigError(f"`--metrics-port` must be a port from 1 to {LAST_PORT}. Received: {port}.")
        os.environ["TFPS_METRICS_PORT"] = str(port)
    elif host is not None and env.metrics_port() is None:
        raise ConfigError(f"`--metrics-host` must be given with --metrics-port only. Received: {host!r}.")
    if host is not None:
        os.environ["TFPS_METRICS_HOST"] = env.check_metrics_host("`--metrics-host`", host)
    first = env.metrics_port()
    env.metrics_host()
    if first is not None and first + tasks - 1 > LAST_PORT:
        name = "TFPS_METRICS_PORT" if port is None else "`--metrics-port`"
        raise ConfigError(
            f"{name} must leave a port for each of {tasks} tasks. Received: {first}. Valid: at most "
            f"{LAST_PORT + 1 - tasks}."
        )


def _set_tls(config: TaskConfig | None) -> None:
    """Passes `--tls` on to this task, whether it serves here or runs the program."""
    if config is None:
        # The tasks of this machine are on loopback alone; the program must not look for tunnels beside them.
        os.environ.pop("TFPS_TLS_DIR", None)
    if _TLS.value is None:
        return
    if config is None:
        raise ConfigError(
            "`--tls` must be left out for a cluster on this machine, which listens on loopback alone. "
            f"Received: {_TLS.value!r}. Valid for tasks of several hosts: TF_CONFIG, srun or mpirun."
        )
    os.environ["TFPS_TLS_DIR"] = os.path.abspath(_TLS.value)


def _deployment(program: tuple[str, ...]) -> Deployment:
    name, num_ps, num_workers = _NAME.value, _PS.value or _DEFAULT_PS, _WORKERS.value or _DEFAULT_WORKERS
    name = _DEFAULT_NAME if name is None else name
    return Deployment(program, _IMAGE.value, name, num_ps, num_workers, _JOBSET.value, _METRICS_PORT.value)


def _find_task() -> TaskConfig | None:
    """Returns the task of this process in a larger cluster, or None for a cluster on this machine."""
    counts = RoleCounts(_PS.value, _WORKERS.value)
    config = tf_config.from_environment()
    if config is not None:
        _check_no_counts(config, counts)
    return find_task(counts)


def _check_no_counts(config: TaskConfig, counts: RoleCounts) -> None:
    if counts.is_given():
        raise ConfigError(
            f"`--ps` and `--workers` must be left out if TF_CONFIG names the cluster (this is its {config.name}); "
            f"unset TF_CONFIG to start one here. Received: --ps {_PS.value}, --workers {_WORKERS.value}."
        )


def _counts() -> tuple[int, int]:
    """Returns the numbers of the servers and of the workers of this machine."""
    return _PS.value or _DEFAULT_PS, _WORKERS.value or _DEFAULT_WORKERS


def _plan(program: tuple[str, ...]) -> launcher.LaunchPlan:
    num_ps, num_workers = _counts()
    plan = launcher.LaunchPlan(program, num_ps, num_workers, _LOG_DIR.value)
    # Logged with its reason, because a forgotten TF_CONFIG on one machine of many looks like a hanging cluster.
    reason = "TF_CONFIG is unset" if _PS.value is None and _WORKERS.value is None else "as asked"
    logs.say(f"{reason}: starting {num_ps} parameter server(s) and {num_workers} worker(s) on this machine")
    return plan


if __name__ == "__main__":
    run()
