"""The environment variables that tfps reads, with one function for each.

A function reads its variable when it is called and never at import, so a program may set the variable at any time
before the call. The functions keep no state and may be called from any thread. A value that breaks its rule raises
`ConfigError`.
"""

import ipaddress
import os
import re

from tfps.errors import ConfigError

_PREFIX = "TFPS_"
_KNOWN = (
    "TFPS_BUILD_OPS",
    "TFPS_CHIEF_GRACE_S",
    "TFPS_DISABLE_OPS",
    "TFPS_FIRST_PORT",
    "TFPS_GRACE_S",
    "TFPS_JOIN_TIMEOUT_S",
    "TFPS_LISTEN",
    "TFPS_MAX_RESTARTS",
    "TFPS_METRICS_HOST",
    "TFPS_METRICS_PORT",
    "TFPS_PROGRESS",
    "TFPS_SILENCE_LIMIT_S",
    "TFPS_START_TIMEOUT_S",
    "TFPS_TLS_DIR",
)
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)|_PORT(_\d+_|$)")
"""Variables that Kubernetes sets for a service whose name begins with "tfps"."""


def refuse_unknown() -> None:
    """Refuses variables that begin as ours do and are none of ours: nothing would ever read a misspelt one.

    Raises:
        ConfigError: such a variable is set.
    """
    ours = [name for name in os.environ if name.startswith(_PREFIX) and name not in _KNOWN]
    unknown = sorted(name for name in ours if not _SERVICE_LINK.search(name))
    if unknown:
        raise ConfigError(
            f"an environment variable that begins with {_PREFIX} must be one of {', '.join(_KNOWN)}. "
            f"Received: {unknown[0]}={os.environ[unknown[0]]!r}."
        )


def tf_config() -> str | None:
    """`TF_CONFIG`: the cluster and the task of this process, as JSON; None if unset or blank."""
    # Some schedulers set it to an empty string for jobs of one machine.
    text = os.environ.get("TF_CONFIG", "")
    return text if text.strip() else None


def start_timeout_s() -> float:
    """`TFPS_START_TIMEOUT_S`: seconds that a server on this machine may take to start. Default 60."""
    return _positive_seconds("TFPS_START_TIMEOUT_S", 60.0)


def join_timeout_s() -> float:
    """`TFPS_JOIN_TIMEOUT_S`: seconds that the tasks of a TF_CONFIG cluster wait for each other. Default 120.

    The chief waits this long for every server, and each server for the chief. Raise it if the scheduler may start
    tasks minutes apart.
    """
    return _positive_seconds("TFPS_JOIN_TIMEOUT_S", 120.0)


def chief_grace_s() -> float | None:
    """`TFPS_CHIEF_GRACE_S`: seconds that a server keeps running after the chief is gone; None if unset.

    If unset, a server ends 2 s after the chief's port is closed, and 30 s after the chief's host stops answering.
    Set it if a failed chief is restarted and should find its servers.
    """
    return _positive_seconds("TFPS_CHIEF_GRACE_S", None)


def first_port() -> int | None:
    """`TFPS_FIRST_PORT`: the lowest port of the tasks of a SLURM step; None if unset.

    If unset, tfps takes the ports that SLURM has reserved for the step (`srun --resv-ports`), or else ports that follow
    from the numbers of job and step. Set it, to one value in all tasks, if another program has these ports.
    """
    text = os.environ.get("TFPS_FIRST_PORT", "").strip()
    if not text:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise ConfigError(f"TFPS_FIRST_PORT must be a port from 1 to 65535. Received: {text!r}.")
    return int(text)


def listen_host() -> str | None:
    """`TFPS_LISTEN`: the IP address at which this task listens; None if unset.

    If unset, a task listens at the address that the cluster gives it. Set it to an address of this host if another
    machine forwards connections to it, or to 0.0.0.0 to listen on every interface.
    """
    text = os.environ.get("TFPS_LISTEN", "").strip()
    if not text:
        return None
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ConfigError(f"TFPS_LISTEN must be an IP address of this host, or 0.0.0.0. Received: {text!r}.") from None


def tls_dir() -> str | None:
    """`TFPS_TLS_DIR`: a directory with ca.crt, tls.crt and tls.key of this task; None if unset.

    If set, the tasks of a cluster talk to one another by mutual TLS alone. Set it in all of them, each to its own
    directory.
    """
    return os.environ.get("TFPS_TLS_DIR", "").strip() or None


def grace_s() -> float:
    """`TFPS_GRACE_S`: seconds that a program has to end its step and to save after a SIGTERM. Default 25.

    A scheduler kills what has not ended in time: Kubernetes after 30 s, unless it is told another time.
    """
    return _positive_seconds("TFPS_GRACE_S", 25.0)


def max_restarts() -> int:
    """`TFPS_MAX_RESTARTS`: how often a task that dies is started again within ten minutes. Default 5; 0 for never."""
    text = os.environ.get("TFPS_MAX_RESTARTS", "").strip()
    if not text:
        return 5
    if not text.isdecimal() or int(text) > 1_000_000:
        raise ConfigError(f"TFPS_MAX_RESTARTS must be a number of restarts, 0 or more. Received: {text!r}.")
    return int(text)


def silence_limit_s() -> float:
    """`TFPS_SILENCE_LIMIT_S`: seconds for which a task may not answer before it counts as dead. Default 120.

    A task that computes for a long time answers all the same; one that is stopped or whose host stands still does not.
    """
    return _positive_seconds("TFPS_SILENCE_LIMIT_S", 120.0)


def metrics_port() -> int | None:
    """`TFPS_METRICS_PORT`: the port at which this task serves its metrics to Prometheus; None if unset.

    The tasks of an embedded cluster take the ports after it: the servers first, then the workers.
    """
    text = os.environ.get("TFPS_METRICS_PORT", "").strip()
    if not text:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise ConfigError(f"TFPS_METRICS_PORT must be a port from 1 to 65535. Received: {text!r}.")
    return int(text)


def metrics_host() -> str:
    """`TFPS_METRICS_HOST`: the IP address at which metrics are served. Default 127.0.0.1.

    Whoever reaches it sees what a job does. Set it to 0.0.0.0 if Prometheus runs on another machine.
    """
    return check_metrics_host("TFPS_METRICS_HOST", os.environ.get("TFPS_METRICS_HOST", "").strip() or "127.0.0.1")


def check_metrics_host(name: str, text: str) -> str:
    """Returns an address at which metrics are served, in its usual form.

    Args:
        name: what it was given as, for messages.
        text: the address.

    Raises:
        ConfigError: it is no IP address.
    """
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ConfigError(
            f"{name} must be an IP address of this host. Received: {text!r}. Valid: 127.0.0.1 for this machine alone, "
            "0.0.0.0 for all that reach it."
        ) from None


def runtime_dir() -> str | None:
    """`XDG_RUNTIME_DIR`: the folder of this user for sockets, which ends with the session; None if unset."""
    return os.environ.get("XDG_RUNTIME_DIR", "").strip() or None


def server_log_level() -> str:
    """`TF_CPP_MIN_LOG_LEVEL` for the servers that tfps starts: the user's value, or "1" for warnings and errors."""
    return os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1")


def progress() -> bool:
    """`TFPS_PROGRESS`: 0 draws no progress bars on a terminal. Default 1."""
    text = os.environ.get("TFPS_PROGRESS", "").strip()
    if text not in ("", "0", "1"):
        raise ConfigError(f"TFPS_PROGRESS must be 0 or 1. Received: {text!r}.")
    return text != "0"


def ops_disabled() -> bool:
    """`TFPS_DISABLE_OPS`: whether to compute with TensorFlow's own ops instead of the C++ ops. Default 0."""
    text = os.environ.get("TFPS_DISABLE_OPS", "").strip()
    if text not in ("", "0", "1"):
        raise ConfigError(f"TFPS_DISABLE_OPS must be 0 or 1. Received: {text!r}.")
    return text == "1"


def _positive_seconds(name: str, default: float | None) -> float:
    text = os.environ.get(name, "").strip()
    if not text:
        return default  # type: ignore[return-value]
    try:
        seconds = float(text)
    except ValueError:
        # Out of range, so that the check below raises its message for this, too.
        seconds = -1.0
    # NaN also fails this comparison. The upper limit, 116 days, keeps "inf" out of timers that cannot take it.
    if not 0.0 < seconds < 1e7:
        raise ConfigError(f"{name} must be a number of seconds above 0. Received: {text!r}.")
    return seconds
