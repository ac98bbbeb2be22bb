"""The addresses of a cluster's tasks, by job, checked before any task starts.

A `ClusterSpec` is an immutable value: threads may share it freely. Its constructor checks everything within
microseconds; nothing is resolved, bound or connected.
"""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tfps import jobs
from tfps.checks import show_value
from tfps.cluster.endpoints import Endpoint, canonicalize, check_addresses
from tfps.errors import ConfigError

if TYPE_CHECKING:
    import tensorflow as tf

_SERVERS = (jobs.PS, jobs.WORKER)
"""The jobs whose tasks the chief connects to, in the order in which messages list them."""


@dataclasses.dataclass(frozen=True)
class ClusterSpec:
    """The endpoint of every task, by job. A string "host:port" stands for an endpoint whose two sides are the same.

    Args:
        worker: one endpoint for each worker, at least one.
        ps: one endpoint for each parameter server, at least one.
        chief: the chief's endpoint, or () if the chief picks its own port, as with the embedded cluster.

    Raises:
        ConfigError: a job has too few or too many tasks, an address is no "host:port", or two tasks share one.
    """

    worker: tuple[Endpoint | str, ...]
    ps: tuple[Endpoint | str, ...]
    chief: tuple[Endpoint | str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the whole spec, so that no invalid spec can exist."""
        for job, limit in ((jobs.CHIEF, (0, 1)), (jobs.WORKER, (1, None)), (jobs.PS, (1, None))):
            # The check comes before the conversion, so that its message shows what the user wrote.
            given = getattr(self, job)
            addresses = tuple(map(_dial_address, given)) if isinstance(given, tuple | list) else given
            check_addresses(f"cluster.{job}", addresses)
            _check_count(job, addresses, *limit)
            endpoints = tuple(one if isinstance(one, Endpoint) else Endpoint.at(one) for one in given)
            object.__setattr__(self, job, endpoints)
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
        """Returns the spec as the `cluster` of a TF_CONFIG, without jobs that have no task."""
        by_job = {job: [endpoint.dial for endpoint in self.endpoints(job)] for job in jobs.JOBS}
        return {job: addresses for job, addresses in by_job.items() if addresses}

    def resolver_spec(self) -> "tf.train.ClusterSpec":
        """Returns the spec as a `tf.train.ClusterSpec`, which a cluster resolver takes. Imports TensorFlow."""
        import tensorflow as tf

        return tf.train.ClusterSpec(self.as_dict())

    def endpoints(self, job: str) -> tuple[Endpoint, ...]:
        """Returns the endpoint of each task of a job, in order."""
        result: tuple[Endpoint, ...] = getattr(self, job)
        return result

    def servers(self) -> Iterator[tuple[str, int, Endpoint]]:
        """Yields (job, index, endpoint) for every task that the chief connects to, parameter servers first."""
        for job in _SERVERS:
            for index, endpoint in enumerate(self.endpoints(job)):
                yield job, index, endpoint

    def show_addresses(self, text: str) -> str:
        """Returns a text of TensorFlow with the addresses that messages show, where it names those that are dialled."""
        for _, _, endpoint in self.servers():
            text = text.replace(endpoint.dial, str(endpoint))
        return text

    def task_at(self, address: str) -> tuple[str, int] | None:
        """Returns the job and index of the task that others dial at this address, or None."""
        for job, index, endpoint in self.servers():
            # TensorFlow's messages name the peer by the address that was dialled.
            if endpoint.is_dialled_at(address):
                return job, index
        return None


def _dial_address(endpoint: Endpoint | str) -> str:
    return endpoint.dial if isinstance(endpoint, Endpoint) else endpoint


def _check_count(job: str, addresses: tuple[str, ...], least: int, most: int | None) -> None:
    if len(addresses) < least:
        raise ConfigError(
            f'`cluster.{job}` must list at least {least} address, for instance ["10.0.0.7:2222"]. '
            f"Received: {show_value(list(addresses))}."
        )
    if most is not None and len(addresses) > most:
        raise ConfigError(f"`cluster.{job}` must list at most {most} address. Received: {show_value(list(addresses))}.")


def _check_distinct(spec: ClusterSpec) -> None:
    # Only the dialled addresses must differ: two hosts may both listen at 0.0.0.0:2222.
    seen: dict[str, str] = {}
    for job in jobs.JOBS:
        for index, endpoint in enumerate(spec.endpoints(job)):
            key = f"cluster.{job}[{index}]"
            first = seen.setdefault(canonicalize(endpoint.dial), key)
            if first != key:
                raise ConfigError(
                    f"Every task must have its own address, but `{first}` and `{key}` are the same. "
                    f"Received: {show_value(endpoint.dial)} for both."
                )
