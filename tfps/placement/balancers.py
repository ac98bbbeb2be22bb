"""Balancers: the rules that choose a server for each shard, given what the servers carry so far."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tfps.errors import PlanError
from tfps.placement.greedy import heaviest_first, mend, spread
from tfps.placement.loads import FLAT_LOOKUPS, MEMORY, QUANTITIES, STEEP_LOOKUPS, Demand, Loads

_BYTES = np.eye(QUANTITIES)[MEMORY]
_ALL = np.ones(QUANTITIES)
# Two guesses at one quantity, the rows looked up, so each counts half.
_ALL[[FLAT_LOOKUPS, STEEP_LOOKUPS]] = 0.5


class Balancer(Protocol):
    """Chooses servers. It has no state: what was placed so far is in `Loads`, so one balancer serves many plans."""

    def assign(self, demand: Demand, loads: Loads) -> list[int]:
        """A server for each shard of one more variable, [shards]; no server twice while there are others."""
        ...

    def assign_all(self, demands: Sequence[Demand], num_servers: int) -> list[list[int]]:
        """Assigns all variables of a model at once. This is more even than one by one: the heaviest can go first."""
        ...


@dataclasses.dataclass(frozen=True)
class RoundRobin:
    """Servers in turn, whatever a variable weighs. This is TensorFlow's rule, here for comparison."""

    def assign(self, demand: Demand, loads: Loads) -> list[int]:
        """The next servers in turn."""
        return [(loads.placed + shard) % len(loads.totals) for shard in range(len(demand))]

    def assign_all(self, demands: Sequence[Demand], num_servers: int) -> list[list[int]]:
        """In turn, as they came."""
        return _one_by_one(self, demands, range(len(demands)), num_servers)


@dataclasses.dataclass(frozen=True)
class GreedyBytes:
    """Each shard goes to the server with the fewest bytes, slots counted; the largest first when all are known."""

    def assign(self, demand: Demand, loads: Loads) -> list[int]:
        """The servers that hold least."""
        return spread(demand, loads, _BYTES)

    def assign_all(self, demands: Sequence[Demand], num_servers: int) -> list[list[int]]:
        """The largest shard first."""
        return _one_by_one(self, demands, heaviest_first(demands, _BYTES), num_servers)


@dataclasses.dataclass(frozen=True)
class GreedyBytesAndTraffic:
    """Each shard goes where it adds least to the load, by memory, rows looked up and dense bytes together.

    Choose it unless you have a reason not to: a table of three rows weighs nothing, and yet every example looks it up.
    The hot shard of a split table goes to a server whose other tables are cool.
    """

    def assign(self, demand: Demand, loads: Loads) -> list[int]:
        """The servers that carry least of the quantities that each shard is heavy in."""
        return spread(demand, loads, _ALL)

    def assign_all(self, demands: Sequence[Demand], num_servers: int) -> list[list[int]]:
        """The heaviest shard in any quantity first; then pairs of servers exchange shards to even out the rest."""
        placed = _one_by_one(self, demands, heaviest_first(demands, _ALL), num_servers)
        mend(placed, demands, num_servers, _ALL)
        return placed


def as_balancer(balancer: Balancer | None) -> Balancer:
    """Returns the given balancer, or the default, `GreedyBytesAndTraffic()`, for None.

    Raises:
        PlanError: it is not a balancer.
    """
    if balancer is None:
        return GreedyBytesAndTraffic()
    methods = (getattr(balancer, method, None) for method in ("assign", "assign_all"))
    if isinstance(balancer, type) or not all(map(callable, methods)):
        valid = [rule.__name__ for rule in (RoundRobin, GreedyBytes, GreedyBytesAndTraffic)]
        raise PlanError(f"`balancer` must be one of {valid} or have their methods. Received: {balancer!r}.")
    return balancer


def _one_by_one(
    balancer: Balancer, demands: Sequence[Demand], order: Sequence[int], num_servers: int
) -> list[list[int]]:
    """Assigns variables in `order`; returns the servers of each variable in the order of `demands`."""
    loads, placed = Loads.none(num_servers), {}
    for index in order:
        placed[index] = balancer.assign(demands[index], loads)
        loads.add(placed[index], demands[index])
    return [placed[index] for index in range(len(demands))]
