"""On which server each shard goes, given what the servers carry so far."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tfps.errors import PlanError
from tfps.placement.model import Placement, placement_loads

Demand: TypeAlias = NDArray[np.float64]
"""What each shard of a variable asks of a server, [shards, 4]; the columns are MEMORY, LOOKUPS, ROWS and WIRE."""

MEMORY, LOOKUPS, ROWS, WIRE = range(4)
"""Bytes with slots; rows looked up a step, repeats counted; rows after deduplication; bytes that cross a step."""


def demand_of(placement: Placement) -> Demand:
    """What each shard of a placement asks, wherever it is, [shards, 4]."""
    rows = [
        (load.bytes_with_slots, load.lookups_per_step, load.rows_per_step, load.row_bytes_per_step + load.dense_bytes_per_step)
        for load in placement_loads(placement)
    ]
    return np.array(rows, np.float64)


@dataclasses.dataclass
class Loads:
    """What the servers carry so far: `totals` [servers, 4], columns as in `Demand`, and the shards placed."""

    totals: NDArray[np.float64]
    placed: int = 0

    @classmethod
    def none(cls, num_servers: int) -> "Loads":
        """Servers that carry nothing yet."""
        return cls(np.zeros((num_servers, 4)))

    def add(self, servers: Sequence[int], demand: Demand) -> None:
        """Counts the shards that went to `servers`, [shards]."""
        np.add.at(self.totals, list(servers), demand)
        self.placed += len(servers)


class Balancer(Protocol):
    """Chooses servers. Stateless: everything it may remember is in `Loads`, so one object serves many plans."""

    def order(self, demands: Sequence[Demand]) -> list[int]:
        """In which order variables are best placed when all are known: indices into `demands`."""
        ...

    def assign(self, demand: Demand, loads: Loads) -> list[int]:
        """A server for each shard, [shards]; no server twice while there are others."""
        ...


@dataclasses.dataclass(frozen=True)
class RoundRobin:
    """Servers in turn, whatever a variable weighs: TensorFlow's own rule, for comparison."""

    def order(self, demands: Sequence[Demand]) -> list[int]:
        """As they came."""
        return list(range(len(demands)))

    def assign(self, demand: Demand, loads: Loads) -> list[int]:
        """The next servers in turn."""
        return [(loads.placed + shard) % len(loads.totals) for shard in range(len(demand))]


@dataclasses.dataclass(frozen=True)
class GreedyBytes:
    """Each shard on the server that holds the fewest bytes, slots counted; largest first when all are known."""

    def order(self, demands: Sequence[Demand]) -> list[int]:
        """Largest shard first."""
        return _descending([demand[:, MEMORY].max(initial=0) for demand in demands])

    def assign(self, demand: Demand, loads: Loads) -> list[int]:
        """The servers that hold least."""
        return _spread(demand, loads, np.eye(4)[MEMORY])


@dataclasses.dataclass(frozen=True)
class GreedyBytesAndTraffic:
    """Each shard where it hurts least, by memory, rows asked for and bytes that cross, together.

    Every quantity counts as a part of what a server carries on average; a shard goes where the sum over quantities of
    (what is there) x (what comes) is smallest, so it avoids servers that are full in what it is made of. The hot shard
    of a table thereby lands where tables have been cool so far.
    """

    def order(self, demands: Sequence[Demand]) -> list[int]:
        """The shard that is the largest part of anything first."""
        if not demands:
            return []
        total = np.maximum(np.concatenate(demands).sum(0), 1e-9)
        return _descending([(demand / total).max(initial=0) for demand in demands])

    def assign(self, demand: Demand, loads: Loads) -> list[int]:
        """The servers that carry least of what each shard asks."""
        return _spread(demand, loads, np.ones(4))


def as_balancer(balancer: Any) -> Balancer:
    """The given balancer; None stands for `GreedyBytesAndTraffic()`.

    Raises:
        PlanError: it is not a balancer.
    """
    if balancer is None:
        return GreedyBytesAndTraffic()
    if not (callable(getattr(balancer, "order", None)) and callable(getattr(balancer, "assign", None))):
        valid = [rule.__name__ for rule in (RoundRobin, GreedyBytes, GreedyBytesAndTraffic)]
        raise PlanError(f"`balancer` must be one of {valid} or have their methods. Received: {balancer!r}.")
    return balancer  # type: ignore[no-any-return]


def _descending(weights: Sequence[float]) -> list[int]:
    """Indices, heaviest first, equal ones as they came."""
    return sorted(range(len(weights)), key=lambda index: -weights[index])


def _spread(demand: Demand, loads: Loads, weights: NDArray[np.float64]) -> list[int]:
    """Shards, heaviest first, to the servers of least cost; a server gets its k+1st only when all have k."""
    servers = np.zeros(len(demand), int)
    count = np.zeros(len(loads.totals), int)
    totals = loads.totals.copy()
    scale = weights / np.maximum(totals.sum(0) + demand.sum(0), 1e-9) ** 2
    for shard in _descending(list((demand**2 @ scale))):
        cost = (totals * scale) @ demand[shard]
        server = min(range(len(cost)), key=lambda s: (count[s], cost[s], totals[s, MEMORY], s))
        servers[shard] = server
        count[server] += 1
        totals[server] += demand[shard]
    return [int(server) for server in servers]
