"""Replaces parameter servers that died, in the program that trains.

A strategy replaces servers if a restorer is registered, which gives the lost variables their values again. Without one,
the death of a server ends the strategy. Whoever trains catches `ServerLostError`, calls `replace_servers`, and goes on
from the moment that the restorer has restored.

    register(strategy, restorer)
    try:
        ...  # an epoch
    except ServerLostError as error:
        replace_servers(strategy, error.servers)

What `replace_servers` keeps: the values on the other servers, all Python objects (Keras variables, tables, optimizers),
and the datasets and iterators on the workers. What it makes anew: the variables that lived on the lost servers, all
NaN until the restorer has run; and the traced functions of all models. Variables of other models are lost too: what the
restorer leaves out stays NaN.

Threading: the main thread.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from tfps import env, jobs
from tfps.cluster import devices, reach
from tfps.cluster.connection import Connection
from tfps.cluster.local import LocalCluster
from tfps.cluster.task_update import update_tasks
from tfps.errors import ClusterError, ServerLostError
from tfps.runtime.gate import Gate
from tfps.runtime.losses import Losses
from tfps.runtime.remote_variables import RemoteVariables
from tfps.runtime.waiting import Wait, call_within, wait_until

_LOG = logging.getLogger("tfps")

_GATE_S = 10.0
"""Seconds for the calls under way to fail. TensorFlow may never end a call that waits for a dead server."""

Restorer = Callable[[list[int]], None]
"""Called with the numbers of the lost servers, once their variables exist again. It gives them their values."""


class Recoverable(Protocol):
    """A strategy whose servers can be replaced. `ParameterServerStrategy` implements it."""

    connection: Connection
    gate: Gate
    losses: Losses
    remote_variables: RemoteVariables
    restorer: Restorer | None

    @property
    def num_workers(self) -> int:
        """The number of workers."""
        ...


def register(strategy: Recoverable, restorer: Restorer | None) -> None:
    """Sets what restores the values of lost variables; None if nothing does.

    A server that dies then no longer ends the strategy, but each use of it raises `ServerLostError` until
    `replace_servers` has returned.
    """
    strategy.restorer = restorer
    strategy.connection.replaces_servers = restorer is not None


def replace_servers(strategy: Recoverable, lost: Collection[int]) -> None:
    """Starts lost servers again, makes their variables anew and has them restored.

    On this machine the servers are started here. Those of other machines are started by whoever has started them:
    `tfps-launch`, Kubernetes, SLURM or the user; this waits for their addresses.

    Args:
        strategy: the strategy. No closure of it should be under way.
        lost: the numbers of the servers, as in `ServerLostError.servers`. Others that are dead are found.

    Raises:
        ClusterError: no restorer is registered, or a server is not started again because it died too often.
        ClusterTimeoutError: a server did not come back within TFPS_JOIN_TIMEOUT_S.
        ServerLostError: another server died meanwhile.
    """
    if strategy.restorer is None:
        raise ClusterError("lost servers are replaced only if something restores their variables: a checkpoint.")
    began = time.monotonic()
    cluster = strategy.connection.cluster
    servers = sorted({*lost, *_ended_servers(cluster)})
    names = ", ".join(f"{jobs.PS} {server}" for server in servers)
    _LOG.warning("%s: lost, with the variables there. Training waits until they are replaced and restored.", names)
    for server in servers:
        strategy.losses.record.record_loss(jobs.PS, server, "its process ended or does not answer")
        _start_again(cluster, server)
    limit_s = env.join_timeout_s()
    wait_until(lambda: all(_is_back(cluster, server) for server in servers), Wait(f"{names} to start again", limit_s))
    _end_calls(strategy)
    with strategy.gate.closed(Wait("the calls under way to end", _GATE_S)):
        spec = cluster.spec if isinstance(cluster, LocalCluster) else cluster
        # Workers that died too come back later, when one of them is needed.
        absent = {(jobs.WORKER, worker) for worker in strategy.losses.lost}
        call_within(
            lambda: update_tasks(spec, absent),
            Wait(f"TensorFlow to connect to {names} anew", limit_s, strategy.losses.check),
        )
    for server in servers:
        # The variables first: what owns named variables may read their shapes.
        strategy.connection.forget(devices.server(server))
        strategy.remote_variables.remake(devices.server(server))
    made = time.monotonic()
    strategy.restorer(servers)
    for server in servers:
        strategy.losses.record.record_return(jobs.PS, server)
    _LOG.warning(
        "%s: replaced after %.1f s, %.1f s of which restored the variables.",
        names,
        time.monotonic() - began,
        time.monotonic() - made,
    )


def _ended_servers(cluster: object) -> Iterator[int]:
    """Yields the numbers of the servers of an embedded cluster that have ended."""
    if isinstance(cluster, LocalCluster):
        yield from (index for job, index in cluster.ended if job == jobs.PS)


def _start_again(cluster: object, server: int) -> None:
    if isinstance(cluster, LocalCluster) and not cluster.start_again(jobs.PS, server):
        try:
            cluster.check()
            why = "it died too often"
        except ServerLostError as error:
            why = error.summary
        raise ClusterError(
            f"{jobs.PS} {server} is not started again, after {cluster.restart_budget}. The last time: {why}",
            (jobs.PS, server),
        )


def _is_back(cluster: object, server: int) -> bool:
    if isinstance(cluster, LocalCluster):
        return cluster.is_back(jobs.PS, server)
    return reach.answers(cluster.endpoints(jobs.PS)[server].dial)  # type: ignore[attr-defined]


def _end_calls(strategy: Recoverable) -> None:
    """Waits for the calls under way to fail. Kills the workers of an embedded cluster whose calls hang instead."""
    cluster = strategy.connection.cluster
    deadline = time.monotonic() + _GATE_S / 2
    while strategy.gate.is_used and time.monotonic() < deadline:
        time.sleep(0.02)
    if strategy.gate.is_used and isinstance(cluster, LocalCluster):
        # A worker holds nothing that cannot be made again, and its calls end with it.
        for worker in range(strategy.num_workers):
            cluster.kill(jobs.WORKER, worker)
