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

- MEMORY: bytes with slots.
- FLAT_LOOKUPS, STEEP_LOOKUPS: rows looked up a step, repeats counted, if ids are drawn evenly or very unevenly.
- ROWS: bytes of the rows that cross in a step, each row once.
- DENSE: bytes of dense variables. Not added to ROWS, because dense variables may cross less often than once a step.
"""


def demand_of(placement: Placement) -> Demand:
    """Returns the demand of each shard of a placement, whatever its server, [shards, QUANTITIES]."""
    loads = list(placement_loads(placement))
    demand = np.zeros((len(loads), QUANTITIES))
    demand[:, MEMORY] = [load.bytes_with_slots for load in loads]
    demand[:, ROWS] = [load.row_bytes_per_step for load in loads]
    demand[:, DENSE] = [load.dense_bytes_per_step for load in loads]
    if placement.spec.is_table and placement.routing:
        for column, exponent in ((FLAT_LOOKUPS, FLAT), (STEEP_LOOKUPS, STEEP)):
            demand[:, column] = table_traffic(placement.spec, placement.routing, exponent).lookups
    return demand


@dataclasses.dataclass
class Loads:
    """The load of each server so far.

    Args:
        totals: [servers, QUANTITIES], columns as in `Demand`.
        placed: shards placed so far.
    """

    totals: NDArray[np.float64]
    placed: int = 0

    @classmethod
    def none(cls, num_servers: int) -> "Loads":
        """Servers that carry nothing yet."""
        return cls(np.zeros((num_servers, QUANTITIES)))

    def add(self, servers: Sequence[int], demand: Demand) -> None:
        """Counts the shards of one variable that went to `servers`, [shards]."""
        np.add.at(self.totals, list(servers), demand)
        self.placed += len(servers)
