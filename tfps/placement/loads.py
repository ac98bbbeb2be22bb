"""What shards ask and what servers carry, as numbers that balancers compare."""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tfps.placement.model import Placement, placement_loads
from tfps.placement.traffic import FLAT, STEEP, table_traffic

Demand: TypeAlias = NDArray[np.float64]
"""What each shard of a variable asks of a server, [shards, QUANTITIES], columns in the order of their names below."""

MEMORY, FLAT_LOOKUPS, STEEP_LOOKUPS, ROWS, DENSE = range(QUANTITIES := 5)
"""Bytes with slots; rows looked up a step, repeats counted, were few ids hot, and were some very hot; bytes of the rows
that cross a step, each row once; bytes of dense variables. The last two are not one sum, as dense variables may cross
less often than once a step."""


def demand_of(placement: Placement) -> Demand:
    """What each shard of a placement asks, wherever it is, [shards, QUANTITIES]."""
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
    """What the servers carry so far.

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
