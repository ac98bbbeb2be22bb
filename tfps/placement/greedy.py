"""Greedy placement by several quantities at once, and the passes that mend what greed got wrong."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tfps.placement.loads import MEMORY, Demand, Loads

_MAX_PASSES = 8
"""Two or three are enough in practice; the limit only bounds the time."""
_TINY = 1e-9


def heaviest_first(demands: Sequence[Demand], weights: NDArray[np.float64]) -> list[int]:
    """Indices of the variables, the one whose largest shard is the largest part of anything first."""
    if not demands:
        return []
    total = np.maximum(np.concatenate(demands).sum(0), _TINY)
    return _descending([float((demand / total * weights).max()) for demand in demands])


def spread(demand: Demand, loads: Loads, weights: NDArray[np.float64]) -> list[int]:
    """Shards of one variable, heaviest first, each to the server where it hurts least.

    Every quantity counts as a part of what all servers carry; the cost of a server is the weighted sum of (what is
    there) x (what comes), the growth of the sum of squares, so a shard avoids servers full of what it is made of.

    Args:
        demand: [shards, 4].
        loads: what the servers carry.
        weights: of the four quantities, [4].

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
    """Takes variables up one by one and puts them down again where that is better, until nothing moves.

    Args:
        placed: the servers of each variable, changed in place.
        demands: what its shards ask, as many.
        num_servers: how many servers there are.
        weights: of the four quantities, [4].
    """
    loads = Loads.none(num_servers)
    for servers, demand in zip(placed, demands, strict=True):
        loads.add(servers, demand)
    order = heaviest_first(demands, weights)
    for _ in range(_MAX_PASSES):
        moves = [_move(placed, index, demands[index], loads, weights) for index in order]
        if not any(moves):
            return


def _move(placed: list[list[int]], index: int, demand: Demand, loads: Loads, weights: NDArray[np.float64]) -> bool:
    """Places one variable again; whether that made the plan more even."""
    moved = loads.copy()
    moved.remove(placed[index], demand)
    servers = spread(demand, moved, weights)
    moved.add(servers, demand)
    if _unevenness(moved, weights) >= _unevenness(loads, weights) - _TINY:
        return False
    placed[index], loads.totals = servers, moved.totals
    return True


def _unevenness(loads: Loads, weights: NDArray[np.float64]) -> float:
    """Sum of fourth powers of load / mean: close to the maximum, but a step towards it already counts."""
    mean = np.maximum(loads.totals.mean(0), _TINY)
    return float(((loads.totals / mean) ** 4 @ weights).sum())


def _descending(weights: Sequence[float]) -> list[int]:
    """Indices, heaviest first, equal ones as they came."""
    return sorted(range(len(weights)), key=lambda index: -weights[index])
