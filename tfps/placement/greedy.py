"""Greedy placement by several quantities at once, and passes of exchanges that improve on it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tfps.placement.loads import MEMORY, Demand, Loads

_MAX_PASSES = 8
"""Two to five passes are enough in practice; the limit only bounds the time."""
_STANDING_OUT = 16
"""One side of an exchange is among this many of the most loaded servers. More take time and gain nothing."""
_TINY = 1e-9
_GAIN = 1e-6
"""An exchange must lower the unevenness by this much. A server with the mean load counts 1 a quantity in it."""


def heaviest_first(demands: Sequence[Demand], weights: NDArray[np.float64]) -> list[int]:
    """Orders variables by their largest shard, measured as a part of the total of any quantity; heaviest first."""
    if not demands:
        return []
    total = np.maximum(np.concatenate(demands).sum(0), _TINY)
    return _descending([float((demand / total * weights).max()) for demand in demands])


def spread(demand: Demand, loads: Loads, weights: NDArray[np.float64]) -> list[int]:
    """Assigns the shards of one variable, heaviest first, each to the server with the least cost.

    Every quantity counts as a part of what all servers carry; the cost of a server is the weighted sum of (what is
    there) x (what comes), the growth of the sum of squares, so a shard avoids servers full of what it is made of.

    Args:
        demand: [shards, QUANTITIES].
        loads: what the servers carry.
        weights: of the quantities, [QUANTITIES].

    Returns:
        A server a shard, [shards]; a server gets its second shard of a variable only when all have one.
    """
    totals, count = loads.totals.copy(), np.zeros(len(loads.totals), int)
    scale = weights / np.maximum(totals.sum(0) + demand.sum(0), _TINY) ** 2
    servers = [0] * len(demand)
    for shard in _descending(list(demand**2 @ scale)):
        cost = (totals * scale) @ demand[shard]
        server = int(np.lexsort((totals[:, MEMORY], cost, count))[0])
        servers[shard] = server
        count[server] += 1
        totals[server] += demand[shard]
    return servers


def mend(placed: list[list[int]], demands: Sequence[Demand], num_servers: int, weights: NDArray[np.float64]) -> None:
    """Lets pairs of servers exchange their shards of a variable until no exchange makes the servers more even.

    A server that holds nothing of the variable may take part, so an exchange can also move a shard.

    Args:
        placed: the servers of each variable, changed in place.
        demands: what its shards ask, as many.
        num_servers: how many servers there are.
        weights: of the quantities, [QUANTITIES].
    """
    held = [np.zeros((num_servers, len(weights))) for _ in placed]
    for there, servers, demand in zip(held, placed, demands, strict=True):
        np.add.at(there, servers, demand)
    totals = np.sum(held, axis=0) if held else np.zeros((num_servers, len(weights)))
    # The unevenness is a sum of (load / mean) ** 4, so the scale holds the fourth power of the mean.
    scale = weights / np.maximum(totals.mean(0), _TINY) ** 4
    order = heaviest_first(demands, weights)
    for _ in range(_MAX_PASSES):
        moves = [_exchange(placed[index], held[index], totals, scale) for index in order]
        if not any(moves):
            return


def _exchange(
    servers: list[int], held: NDArray[np.float64], totals: NDArray[np.float64], scale: NDArray[np.float64]
) -> bool:
    """Lets servers exchange their shards of one variable, the pair that gains most first. Returns whether any did.

    Args:
        servers: of the shards, changed in place.
        held: load of each server by this variable, [servers, QUANTITIES], changed in place.
        totals: load of each server by all variables, [servers, QUANTITIES], changed in place.
        scale: factor of each quantity in the unevenness, [QUANTITIES].
    """
    for turn in range(len(totals)):
        gain, one, other = _best_pair(held, totals, scale)
        if gain <= _GAIN:
            return turn > 0
        difference = held[other] - held[one]
        totals[one] += difference
        totals[other] -= difference
        held[[one, other]] = held[[other, one]]
        servers[:] = [{one: other, other: one}.get(server, server) for server in servers]
    return True


def _best_pair(
    held: NDArray[np.float64], totals: NDArray[np.float64], scale: NDArray[np.float64]
) -> tuple[float, int, int]:
    """Returns (gain, one server, the other) of the exchange that lowers the unevenness most.

    Unevenness is the sum of fourth powers of load / mean. It is close to the maximum, and unlike the maximum it falls
    with every step in the right direction. One of the two servers is among the most loaded ones.
    """
    uneven = totals**4 @ scale
    out = np.argsort(-uneven, kind="stable")[:_STANDING_OUT]
    difference = held - held[out, np.newaxis]  # [out, servers, QUANTITIES]
    after = (totals[out, np.newaxis] + difference) ** 4 @ scale + (totals - difference) ** 4 @ scale
    gain = uneven[out, np.newaxis] + uneven - after
    one, other = np.unravel_index(np.argmax(gain), gain.shape)
    return float(gain[one, other]), int(out[one]), int(other)


def _descending(weights: Sequence[float]) -> list[int]:
    """Indices, heaviest first, equal ones as they came."""
    return sorted(range(len(weights)), key=lambda index: -weights[index])
