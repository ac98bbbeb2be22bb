"""What shards ask and what servers carry, as numbers that balancers compare."""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tfps.placement.model import Placement, placement_loads

Demand: TypeAlias = NDArray[np.float64]
"""What each shard of a variable asks of a server, [shards, 4]; the columns are MEMORY, LOOKUPS, ROWS and DENSE."""

MEMORY, LOOKUPS, ROWS, DENSE = range(4)
"""Bytes with slots; rows looked up a step, repeats counted; bytes of the rows that cross a step, each row once; bytes
of dense variables. The last two are not one sum, as dense variables may cross less often than once a step."""


def demand_of(placement: Placement) -> Demand:
    """What each shard of a placement asks, wherever it is, [shards, 4]."""
    shards = [
        (load.bytes_with_slots, load.lookups_per_step, load.row_bytes_per_step, load.dense_bytes_per_step)
        for load in placement_loads(placement)
    ]
    return np.array(shards, np.float64)


@dataclasses.dataclass
class Loads:
    """What the servers carry so far.

    Args:
        totals: [servers, 4], columns as in `Demand`.
        placed: shards placed so far.
    """

    totals: NDArray[np.float64]
    placed: int = 0

    @classmethod
    def none(cls, num_servers: int) -> "Loads":
        """Servers that carry nothing yet."""
        return cls(np.zeros((num_servers, 4)))

    def copy(self) -> "Loads":
        """The same loads, to try something on."""
        return Loads(self.totals.copy(), self.placed)

    def add(self, servers: Sequence[int], demand: Demand) -> None:
        """Counts the shards of one variable that went to `servers`, [shards]."""
        np.add.at(self.totals, list(servers), demand)
        self.placed += len(servers)

    def remove(self, servers: Sequence[int], demand: Demand) -> None:
        """Takes back what `add` counted."""
        np.subtract.at(self.totals, list(servers), demand)
        self.placed -= len(servers)
