"""Demands of shards and loads of servers, as the numbers that balancers compare."""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tfps.placement.model import Placement, placement_loads
from tfps.placement.traffic import FLAT, STEEP, table_traffic

Demand: TypeAlias = NDArray[np.float64]
"""The load that each shard of a variable puts on its server, [shards, QUANTITIES]; columns as named below."""

MEMORY, FLAT_LOOKUPS, STEEP_LOOKUPS, ROWS, DENSE = range(QUANTITIES := 5)
"""The quantities, by column:

- MEMORY: bytes of the variable and its slots.
- FLAT_LOOKUPS, STEEP_LOOKUPS: rows looked up per step, with repeats, if ids are drawn evenly or very unevenly.
- ROWS: bytes of the rows that cross the network in a step, each row once.
- DENSE: bytes of dense variables. A separate column, because they may cross less often than once per step.
"""


def compute_demand(placement: Placement) -> Demand:
    """Returns the demand of each shard of a placement, on whichever server it is, [shards, QUANTITIES]."""
    loads = list(placement_loads(placement))
    demand = np.zeros((len(loads), QUANTITIES))
    demand[:, MEMORY] = [load.bytes_with_slots for load in loads]
    demand[:, ROWS] = [load.row_bytes_per_step for load in loads]
    demand[:, DENSE] = [load.dense_bytes_per_step for load in loads]
    # The true distribution of the ids is unknown, so a plan balances both ends of its range.
    if placement.spec.is_table and placement.routing:
        for column, exponent in ((FLAT_LOOKUPS, FLAT), (STEEP_LOOKUPS, STEEP)):
            demand[:, column] = table_traffic(placement.spec, placement.routing, exponent).lookups
    return demand


@dataclasses.dataclass
class Loads:
    """The load of each server so far.

    Args:
        totals: the load of each server, [servers, QUANTITIES], columns as in `Demand`.
        placed: the number of shards placed so far.
    """

    totals: NDArray[np.float64]
    placed: int = 0

    @classmethod
    def empty(cls, num_servers: int) -> "Loads":
        """Makes the loads of servers that hold nothing."""
        return cls(np.zeros((num_servers, QUANTITIES)))

    def add(self, servers: Sequence[int], demand: Demand) -> None:
        """Adds the shards of one variable, which were placed on `servers`, [shards]."""
        # `np.add.at` adds both shards if a server appears twice; `+=` with an index would add one.
        np.add.at(self.totals, list(servers), demand)
        self.placed += len(servers)
