"""Greedy placement by several quantities at once, and exchanges of shards that improve it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tfps.placement.loads import MEMORY, Demand, Loads

_MAX_PASSES = 8
"""Two to five passes are enough in practice; the limit only bounds the time."""
_MOST_LOADED = 16
"""One side of an exchange is among this many of the most loaded servers. More take time and gain nothing."""
# Keeps a quantity that no shard has, such as dense bytes of a model of tables, from a division by zero.
_TINY = 1e-9
_MIN_GAIN = 1e-6
"""An exchange must lower the unevenness by this much. A server with the mean load adds 1 per quantity to it."""


def heaviest_first(demands: Sequence[Demand], weights: NDArray[np.float64]) -> list[int]:
    """Returns the indices of the variables, the one with the heaviest shard first.

    A shard weighs as much as its largest part of any quantity's total: a shard with 2 % of the bytes and 30 % of the
    lookups weighs 0.3, times the weight of the lookups.
    """
    if not demands:
        return []
    total = np.maximum(np.concatenate(demands).sum(0), _TINY)
    return _sort_descending([float((demand / total * weights).max()) for demand in demands])


def spread(demand: Demand, loads: Loads, weights: NDArray[np.float64]) -> list[int]:
    """Assigns the shards of one variable, heaviest first, each to the server with the least cost.

    Each quantity is measured as a part of the load of all servers. The cost of a server is the weighted sum over the
    quantities of (its load) x (the shard's demand). That is by how much the sum of squared loads grows, so a shard
    avoids servers that are loaded with the same quantities.

    Args:
        demand: the demand of each shard, [shards, QUANTITIES].
        loads: the loads of the servers so far.
        weights: the weight of each quantity, [QUANTITIES].

    Returns:
        The server of each shard, [shards]. A server gets a second shard only when every server has one.
    """
    totals, count = loads.totals.copy(), np.zeros(len(loads.totals), int)
    # Squared, because the cost multiplies two values that are each measured as a part of the total.
    scale = weights / np.maximum(totals.sum(0) + demand.sum(0), _TINY) ** 2
    servers = [0] * len(demand)
    for shard in _sort_descending(list(demand**2 @ scale)):
        cost = (totals * scale) @ demand[shard]
        # `lexsort` sorts by its last key first: fewest shards of this variable, then least cost, then least memory.
        server = int(np.lexsort((totals[:, MEMORY], cost, count))[0])
        servers[shard] = server
        count[server] += 1
        totals[server] += demand[shard]
    return servers


def exchange_shards(
    placed: list[list[int]], demands: Sequence[Demand], num_servers: int, weights: NDArray[np.float64]
) -> None:
    """Lets pairs of servers exchange their shards of a variable until no exchange makes the servers more even.

    A server that holds nothing of the variable may take part, so an exchange can also move a shard.

    Args:
        placed: the server of each shard, by variable; changed in place.
        demands: the demand of each shard, by variable.
        num_servers: the number of servers.
        weights: the weight of each quantity, [QUANTITIES].
    """
    # The load of each server by each variable: [servers, QUANTITIES] per variable.
    loads = [np.zeros((num_servers, len(weights))) for _ in placed]
    for load, servers, demand in zip(loads, placed, demands, strict=True):
        # Not `load[servers] += demand`, which counts a server once even if it holds two shards.
        np.add.at(load, servers, demand)
    totals = np.sum(loads, axis=0) if loads else np.zeros((num_servers, len(weights)))
    # The unevenness is a sum of (load / mean) ** 4, so the scale holds the fourth power of the mean.
    scale = weights / np.maximum(totals.mean(0), _TINY) ** 4
    order = heaviest_first(demands, weights)
    for _ in range(_MAX_PASSES):
        changes = [_exchange_variable(placed[index], loads[index], totals, scale) for index in order]
        if not any(changes):
            return


def _exchange_variable(
    servers: list[int], loads: NDArray[np.float64], totals: NDArray[np.float64], scale: NDArray[np.float64]
) -> bool:
    """Lets servers exchange their shards of one variable, the best pair first; returns whether any pair did.

    Args:
        servers: the server of each shard, changed in place.
        loads: the load of each server by this variable, [servers, QUANTITIES], changed in place.
        totals: the load of each server by all variables, [servers, QUANTITIES], changed in place.
        scale: the factor of each quantity in the unevenness, [QUANTITIES].
    """
    # At most one exchange per server: the limit only bounds the time.
    for turn in range(len(totals)):
        gain, one, other = _best_pair(loads, totals, scale)
        if gain <= _MIN_GAIN:
            return turn > 0
        difference = loads[other] - loads[one]
        totals[one] += difference
        totals[other] -= difference
        loads[[one, other]] = loads[[other, one]]
        # Every shard of `one` goes to `other` and the other way round.
        servers[:] = [{one: other, other: one}.get(server, server) for server in servers]
    return True


def _best_pair(
    loads: NDArray[np.float64], totals: NDArray[np.float64], scale: NDArray[np.float64]
) -> tuple[float, int, int]:
    """Returns (gain, one server, the other) of the exchange that lowers the unevenness most.

    The unevenness is the sum of the fourth powers of load / mean. It is close to the maximum, but unlike the maximum it
    falls with every step in the right direction. One of the two servers is among the most loaded.
    """
    uneven = totals**4 @ scale
    top = np.argsort(-uneven, kind="stable")[:_MOST_LOADED]
    # All pairs at once, [top, servers, QUANTITIES]: how the load of the first server changes by an exchange.
    difference = loads - loads[top, np.newaxis]
    after = (totals[top, np.newaxis] + difference) ** 4 @ scale + (totals - difference) ** 4 @ scale
    gain = uneven[top, np.newaxis] + uneven - after
    one, other = np.unravel_index(np.argmax(gain), gain.shape)
    return float(gain[one, other]), int(top[one]), int(other)


def _sort_descending(weights: Sequence[float]) -> list[int]:
    """Returns the indices of the weights, heaviest first; equal weights keep their order."""
    return sorted(range(len(weights)), key=lambda index: -weights[index])
