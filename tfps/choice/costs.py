"""Bytes: what crosses in a step under each strategy, and what each device holds.

All bytes of a step are those of the *busiest link*: of one direction of the network of the host that sends or receives
most. With one host it is what a replica, or all workers together, send. Pure functions.

With n replicas, D bytes of dense gradients, R bytes of gradients of U unique rows:

* **Ring all-reduce**: 2 (n - 1) / n * D. Rows are gathered: each replica gets the (R + 8 U) of the n - 1 others.
* **Parameter servers**: a worker sends 8 U of ids and R of gradients and receives R of rows; every k steps it receives
  the dense variables with their slots and sends their changes.
"""

import dataclasses
import math

from tfps.choice import constants
from tfps.choice.footprint import ID_BYTES, Footprint
from tfps.choice.hardware import Site
from tfps.placement.advice import default_exchange_every


def all_reduce_bytes(footprint: Footprint, replicas: int) -> float:
    """Returns the bytes that a replica sends in a step, which are those of each link of the ring."""
    # 4 replicas, 100 bytes of dense gradients, no rows: 150.
    ring = 2 * (replicas - 1) / replicas * footprint.dense_gradient_bytes
    return ring + (replicas - 1) * (footprint.row_gradient_bytes + ID_BYTES * footprint.unique_rows)


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What one worker of parameter servers exchanges in a step, on average.

    Args:
        down: bytes that it receives: rows and dense variables with slots.
        up: bytes that it sends: ids, gradients of rows and changes of dense variables.
        every: steps between two exchanges of dense variables.
    """

    down: float
    up: float
    every: int


def exchange(footprint: Footprint, workers: int, every: int | None = None) -> Exchange:
    """Returns what a worker exchanges in a step.

    Args:
        footprint: the model.
        workers: workers of the cluster.
        every: steps between two exchanges of dense variables; None for the default of this many workers.
    """
    every = default_exchange_every(workers) if every is None else every
    dense = footprint.dense_bytes / every
    ids = ID_BYTES * footprint.unique_rows
    return Exchange(footprint.row_bytes + dense, ids + footprint.row_gradient_bytes + dense, every)


def server_link_bytes(footprint: Footprint, site: Site, servers: int, every: int | None = None) -> float:
    """Returns the bytes of a step of all workers over the busiest link, under parameter servers.

    Args:
        footprint: the model.
        site: the machines. Servers have hosts of their own, or share those of the workers.
        servers: parameter servers, spread evenly.
        every: as for `exchange`.
    """
    one = exchange(footprint, site.workers, every)
    # Workers of a host, and the workers whose share of the traffic a host of servers has: 8 workers, 2 servers, 4.
    here = site.workers_per_host
    there = site.workers / servers * -(-servers // (site.server_hosts or site.hosts))
    if site.server_hosts:
        # A host of workers receives `down`; a host of servers sends it, and receives `up`.
        return max(here, there) * max(one.down, one.up)
    # A host with a server and a worker receives rows for the one and gradients for the other, and sends as much.
    busiest = max(here * one.down + there * one.up, here * one.up + there * one.down)
    # What a host asks its own server does not leave it. On one host all of it is between processes.
    return busiest * ((site.hosts - 1) / site.hosts if site.hosts > 1 else 1)


def host_bytes(footprint: Footprint, site: Site, servers: int) -> float:
    """Returns the memory that the fullest host needs under parameter servers, its processes included.

    Args:
        footprint: the model.
        site: the machines; `workers` are those of the cluster.
        servers: parameter servers, spread evenly.
    """
    hosts = site.server_hosts or site.hosts
    of_servers = -(-servers // hosts) * (whole_bytes(footprint) / servers + constants.SERVER_BYTES)
    # The replica of a worker with a card is on the card. One host also runs the chief.
    one = constants.PROCESS_BYTES + (0 if site.cards else footprint.worker_bytes)
    of_workers = site.workers_per_host * one + (constants.PROCESS_BYTES if site.hosts == 1 else 0)
    return max(of_servers, of_workers) if site.server_hosts else of_servers + of_workers


def hosts_needed(footprint: Footprint, site: Site) -> int:
    """Returns how many such hosts, with a server and a worker each, hold the model; 0 if no number does."""
    worker = constants.PROCESS_BYTES + (0 if site.cards else footprint.worker_bytes)
    room = site.host_bytes * constants.HOST_PART - worker - constants.SERVER_BYTES
    return max(1, math.ceil(whole_bytes(footprint) / room)) if room > 0 else 0


def whole_bytes(footprint: Footprint) -> float:
    """Returns the bytes of all variables and slots, which the servers hold; the planner keeps servers even."""
    return footprint.variable_bytes + footprint.slot_bytes
