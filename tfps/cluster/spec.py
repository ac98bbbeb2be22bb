"""Where the tasks of a cluster are: jobs and their addresses, checked before anything starts.

A `ClusterSpec` is an immutable value: share it between threads freely. Making one checks it completely and costs
microseconds; nothing is resolved, bound or connected.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from tfps.errors import ConfigError

JOBS = ("chief", "worker", "ps")
"""The jobs a cluster may have: the chief coordinates, workers compute, parameter servers (ps) hold the variables."""

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(?P<port>[0-9]+)")


@dataclasses.dataclass(frozen=True)
class ClusterSpec:
    """The addresses ("host:port") of every task, by job.

    Args:
        worker: one address a worker, at least one.
        ps: one address a parameter server, at least one.
        chief: the chief's address, or () where the chief picks a port by itself (the embedded cluster).

    Raises:
        ConfigError: a job has too few or too many tasks, an address is no "host:port", or two tasks share one.
    """

    worker: tuple[str, ...]
    ps: tuple[str, ...]
    chief: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the whole spec, so that no invalid one exists."""
        for job, limit in (("chief", (0, 1)), ("worker", (1, None)), ("ps", (1, None))):
            addresses = getattr(self, job)
            check_addresses(f"cluster.{job}", addresses)
            _check_count(job, addresses, *limit)
        _check_distinct(self)

    @property
    def num_ps(self) -> int:
        """How many parameter servers there are."""
        return len(self.ps)

    @property
    def num_workers(self) -> int:
        """How many workers there are."""
        return len(self.worker)

    def as_dict(self) -> dict[str, list[str]]:
        """The spec as the `cluster` of a TF_CONFIG; a job with no task is left out."""
        return {job: list(getattr(self, job)) for job in JOBS if getattr(self, job)}

    def resolver_spec(self) -> Any:
        """The spec as the `tf.train.ClusterSpec` that a cluster resolver takes. Imports TensorFlow."""
        import tensorflow as tf

        return tf.train.ClusterSpec(self.as_dict())

    def servers(self) -> Iterator[tuple[str, int, str]]:
        """Every (job, index, address) that the chief connects to: first the ps, then the workers."""
        for job in ("ps", "worker"):
            for index, address in enumerate(getattr(self, job)):
                yield job, index, address

    def task_at(self, address: str) -> str | None:
        """The name ("worker 0") of the task at this address, None if there is none."""
        for job, index, candidate in self.servers():
            if _canonical(candidate) == _canonical(address):
                return f"{job} {index}"
        return None


def split_address(address: str) -> tuple[str, int]:
    """Splits a checked "host:port"; the brackets of "[::1]:2222" are taken off."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def check_addresses(key: str, addresses: object) -> None:
    """Checks that `addresses` is a list of "host:port" strings.

    Raises:
        ConfigError: it is not; the message names the key and the element.
    """
    if not isinstance(addresses, (list, tuple)):
        raise ConfigError(f'`{key}` must be a list of "host:port" strings. Received: {addresses!r}.')
    for index, address in enumerate(addresses):
        _check_address(f"{key}[{index}]", address)


def _check_address(key: str, address: object) -> None:
    if not isinstance(address, str):
        raise ConfigError(f'`{key}` must be a string "host:port". Received: {address!r}.')
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ConfigError(
            f'`{key}` must be "host:port" with a port from 1 to 65535, without a scheme ("10.0.0.7:2222"). '
            f"Received: {address!r}."
        )
    if not 1 <= int(match["port"]) <= 65535:
        raise ConfigError(f"`{key}` must have a port from 1 to 65535. Received: {match['port']} in {address!r}.")


def _check_count(job: str, addresses: tuple[str, ...], least: int, most: int | None) -> None:
    if len(addresses) < least:
        raise ConfigError(
            f'`cluster.{job}` must list at least {least} address, for instance ["10.0.0.7:2222"]. '
            f"Received: {list(addresses)}."
        )
    if most is not None and len(addresses) > most:
        raise ConfigError(f"`cluster.{job}` must list at most {most} address. Received: {list(addresses)}.")


def _check_distinct(spec: ClusterSpec) -> None:
    seen: dict[str, str] = {}
    for job in JOBS:
        for index, address in enumerate(getattr(spec, job)):
            key = f"cluster.{job}[{index}]"
            first = seen.setdefault(_canonical(address), key)
            if first != key:
                raise ConfigError(
                    f"Every task must have an address of its own, but `{first}` and `{key}` are the same. "
                    f"Received: {address!r} for both."
                )


def _canonical(address: str) -> str:
    # localhost:2222 and 127.0.0.1:2222 are one port: two servers there would clash.
    host, port = split_address(address.lower())
    return f"{'127.0.0.1' if host == 'localhost' else host}:{port}"
