"""Runs a parameter server or worker of a TF_CONFIG cluster, from the start of its process to the end.

`serve` takes over the process: it starts the server, waits for the chief to start and then to finish, and ends the
process. Call it from the main thread. TensorFlow's server works in its own threads.
"""

import signal
import sys
from types import FrameType
from typing import NoReturn

from tfps import env, jobs
from tfps.cluster import chief_watch, logs
from tfps.cluster.cards import count_cards
from tfps.cluster.tf_config import TaskConfig
from tfps.cluster.tf_server import start_server
from tfps.cluster.tls.secure import open_door
from tfps.errors import ConfigError, TfpsError
from tfps.monitoring.metrics_port import check_settings, serve_task

_INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def serve(config: TaskConfig) -> NoReturn:
    """Runs one parameter server or worker until the chief is done, then ends the process.

    Exit status: 0 after the chief has ended; 1, with a message, if the server cannot start or the chief does not start
    within TFPS_JOIN_TIMEOUT_S; 130 after a Ctrl-C; `jobs.PREEMPTED` after a SIGTERM.

    Args:
        config: this task, whose type is "ps" or "worker".

    Raises:
        ConfigError: the task is the chief, which runs the program instead.
        SystemExit: in every other case.
    """
    if config.task_type == jobs.CHIEF:
        valid = " or ".join(map(repr, (jobs.PS, jobs.WORKER)))
        raise ConfigError(f"`config.task_type` must be {valid} to serve. Received: {config.task_type!r}.")
    signal.signal(signal.SIGTERM, _preempt)
    # None of the user's code runs in this process, so a line about the failure is enough and a traceback is noise.
    try:
        serve_until_done(config)
    except TfpsError as error:
        logs.say(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        logs.say(f"{config.name} was interrupted")
        sys.exit(_INTERRUPTED)
    sys.exit(0)


def _preempt(number: int, frame: FrameType | None) -> NoReturn:
    """Ends the process after a SIGTERM: a server has nothing to save, and is started again or done without."""
    raise SystemExit(jobs.PREEMPTED)


def serve_until_done(config: TaskConfig) -> None:
    """Starts the server of a task, waits for the chief to start, and returns when the chief has ended.

    Raises:
        ClusterError: the port cannot be bound, or the tunnel does not start.
        ConfigError: this host has not the address that the cluster gives the task, its certificate cannot be used, or
            its metrics cannot be served.
        ClusterTimeoutError: the chief did not start within TFPS_JOIN_TIMEOUT_S.
    """
    metrics_port = env.metrics_port()
    if metrics_port is not None:
        check_settings()
    config, listen = open_door(config)
    (chief,) = config.cluster.endpoints(jobs.CHIEF)
    cards = range(count_cards()) if config.task_type == jobs.WORKER else ()
    start_server(config.task_type, config.task_index, listen, cards=cards)
    if metrics_port is not None:
        serve_task(config.task_type, config.task_index, metrics_port)
    logs.say(f"{config.name} listens at {listen} and waits for the chief at {chief}")
    chief_watch.wait_for_chief(config.name, chief.dial, env.join_timeout_s())
    # This wait has no limit: training may take days.
    logs.say(f"{config.name} serves the chief at {chief}")
    chief_watch.wait_until_done(chief.dial, env.chief_grace_s())
    logs.say(f"{config.name} ends: the chief at {chief} is done")
