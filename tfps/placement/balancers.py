"""Balancers: the rules that choose a server for each shard, given the load of the servers so far."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tfps.errors import PlanError
from tfps.placement.greedy import exchange_shards, heaviest_first, spread
from tfps.placement.loads import FLAT_LOOKUPS, MEMORY, QUANTITIES, STEEP_LOOKUPS, Demand, Loads

# Weights of the quantities, [QUANTITIES]: memory alone, and all of them.
_BYTES = np.eye(QUANTITIES)[MEMORY]
_ALL = np.ones(QUANTITIES)
# Both columns are estimates of one quantity, the rows looked up, so each counts half.
_ALL[[FLAT_LOOKUPS, STEEP_LOOKUPS]] = 0.5


class Balancer(Protocol):
    """Chooses servers. It has no state: `Loads` holds the placements so far, so one balancer serves many plans."""

    def assign(self, demand: Demand, loads: Loads) -> list[int]:
        """Returns a server for each shard of one more variable, [shards].

        A server gets a second shard of the variable only when every server has one.
        """
        ...

    def assign_all(self, demands: Sequence[Demand], num_servers: int) -> list[list[int]]:
        """Assigns all variables of a model at once, which is more even because the heaviest can go first."""
        ...


@dataclasses.dataclass(frozen=True)
class RoundRobin:
    """Takes servers in turn, whatever a variable weighs. This is TensorFlow's rule, here for comparison."""

    def assign(self, demand: Demand, loads: Loads) -> list[int]:
        """Returns the next servers in turn."""
        # The count of shards so far is the state of the turn: with 5 shards on 4 servers, server 1 is next.
        return [(loads.placed + shard) % len(loads.totals) for shard in range(len(demand))]

    def assign_all(self, demands: Sequence[Demand], num_servers: int) -> list[list[int]]:
        """Assigns the variables in their own order."""
        return _assign_in_order(self, demands, range(len(demands)), num_servers)


@dataclasses.dataclass(frozen=True)
class GreedyBytes:
    """Puts each shard on the server with the fewest bytes, slots included; the largest first when all are known."""

    def assign(self, demand: Demand, loads: Loads) -> list[int]:
        """Returns the servers that hold the fewest bytes."""
        return spread(demand, loads, _BYTES)

    def assign_all(self, demands: Sequence[Demand], num_servers: int) -> list[list[int]]:
        """Assigns the variable with the largest shard first."""
        return _assign_in_order(self, demands, heaviest_first(demands, _BYTES), num_servers)


@dataclasses.dataclass(frozen=True)
class GreedyBytesAndTraffic:
    """Balances memory, rows looked up and dense bytes together.

    Choose it unless you have a reason not to: a table of three rows needs no memory, and yet every example looks it up.
    The most used shard of a split table goes to a server whose other tables are used less.
    """

    def assign(self, demand: Demand, loads: Loads) -> list[int]:
        """Returns the servers that carry least of the quantities in which each shard is heavy."""
        return spread(demand, loads, _ALL)

    def assign_all(self, demands: Sequence[Demand], num_servers: int) -> list[list[int]]:
        """Assigns the heaviest variable in any quantity first; then pairs of servers exchange shards."""
        servers = _assign_in_order(self, demands, heaviest_first(demands, _ALL), num_servers)
        # Greedy placement cannot undo an early choice; the exchanges can.
        exchange_shards(servers, demands, num_servers, _ALL)
        return servers


def as_balancer(balancer: Balancer | None) -> Balancer:
    """Returns the given balancer, or `GreedyBytesAndTraffic()` for None.

    Raises:
        PlanError: it is not a balancer.
    """
    if balancer is None:
        return GreedyBytesAndTraffic()
    # A class is refused, too: `balancer=RoundRobin` without parentheses has the methods and would fail much later.
    methods = (getattr(balancer, method, None) for method in ("assign", "assign_all"))
    if isinstance(balancer, type) or not all(map(callable, methods)):
        valid = [rule.__name__ for rule in (RoundRobin, GreedyBytes, GreedyBytesAndTraffic)]
        raise PlanError(f"`balancer` must be one of {valid} or have their methods. Received: {balancer!r}.")
    return balancer


def _assign_in_order(
    balancer: Balancer, demands: Sequence[Demand], order: Sequence[int], num_servers: int
) -> list[list[int]]:
    """Assigns variables in `order`; returns the servers of each variable in the order of `demands`."""
    loads, servers = Loads.empty(num_servers), {}
    for index in order:
        servers[index] = balancer.assign(demands[index], loads)
        loads.add(servers[index], demands[index])
    return [servers[index] for index in range(len(demands))]
