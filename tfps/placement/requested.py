"""`RequestedRows`: the rows that steps have asked each shard for, as counted; and what they make of a server's load.

A plan guesses how ids are distributed (`tfps.placement.traffic`). Workers know: each step counts the rows of its
requests, by table and shard, and the chief adds the counts up.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tfps.checks import check_integer, check_list, show_value
from tfps.errors import PlanError
from tfps.placement.model import Placement, Plan
from tfps.types import JSON

HOT = 2.0
"""Load / mean from which a server is hot."""
_HOT_OF_TWO = 1.5
"""The same for two servers, of which one can have twice the mean only by having everything."""
_FEWEST_STEPS = 16
"""The steps before which counts say little: the first batches may be of any kind."""


@dataclasses.dataclass(frozen=True)
class RequestedRows:
    """The rows that steps have requested, each once a step.

    Args:
        steps: the number of steps.
        tables: for each table, by its name, the rows that were requested of each of its shards, [shards].

    Raises:
        PlanError: an argument breaks its rule.
    """

    steps: int
    tables: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        """Checks the fields. Lists of rows become tuples."""
        object.__setattr__(self, "steps", check_integer("steps", self.steps, at_least=0, error=PlanError))
        if not isinstance(self.tables, Mapping):
            raise PlanError(f"`tables` must be rows by table. Received: {show_value(self.tables)}.")
        tables = {
            name: tuple(
                check_integer(f"tables[{name!r}]", rows, at_least=0, error=PlanError)
                for rows in check_list(f"tables[{name!r}]", shards, "a list of rows", error=PlanError)
            )
            for name, shards in self.tables.items()
        }
        object.__setattr__(self, "tables", tables)

    @classmethod
    def of_counts(cls, steps: int, counts: Mapping[tuple[str, int], int]) -> "RequestedRows":
        """Makes the value of counts by (table, shard). A shard without a count was asked for nothing."""
        tables: dict[str, list[int]] = {}
        for (table, shard), rows in counts.items():
            shards = tables.setdefault(table, [])
            shards += [0] * (shard + 1 - len(shards))
            shards[shard] += rows
        return cls(steps, {table: tuple(shards) for table, shards in tables.items()})

    def to_json(self) -> dict[str, JSON]:
        """Returns the value as JSON."""
        return {"steps": self.steps, "tables": {name: list(shards) for name, shards in self.tables.items()}}

    @classmethod
    def from_json(cls, fields: JSON) -> "RequestedRows":
        """Reads what `to_json` returned.

        Raises:
            PlanError: it is something else.
        """
        if not isinstance(fields, dict):
            raise PlanError(f"requested rows must be an object. Received: {show_value(fields)}.")
        return cls(fields.get("steps"), fields.get("tables"))  # type: ignore[arg-type]  # checked by the class

    def shards_of(self, placement: Placement) -> tuple[int, ...] | None:
        """Returns the rows that were requested of each shard of a placement, [shards]; None if they are not known."""
        rows = self.tables.get(placement.spec.name)
        if rows is None or not placement.spec.is_table or len(rows) > len(placement.shards):
            return None
        # Shards at the end that were never asked have no count.
        return rows + (0,) * (len(placement.shards) - len(rows))


class HotServer(NamedTuple):
    """A server with much more load than the others.

    Args:
        server: its number.
        ratio: its load / the mean of all servers.
        share: its part of the load of all servers, 0 to 1.
        tables: the part of the load of all servers that each table has on it, the largest first.
    """

    server: int
    ratio: float
    share: float
    tables: tuple[tuple[str, float], ...]


def shard_loads(placement: Placement, requested: RequestedRows) -> list[float]:
    """Returns the bytes of rows that were requested of each shard, [shards]; 0 where nothing is known."""
    rows = requested.shards_of(placement)
    return [0.0] * len(placement.shards) if rows is None else [one * placement.spec.row_bytes for one in rows]


def server_loads(plan: Plan, requested: RequestedRows) -> list[float]:
    """Returns the bytes of rows that were requested of each server, [num_servers]."""
    return add_up(plan, [shard_loads(placement, requested) for placement in plan])


def add_up(plan: Plan, loads: Sequence[Sequence[float]]) -> list[float]:
    """Adds up the loads of shards by server.

    Args:
        plan: the plan.
        loads: the load of each shard of each placement of the plan.
    """
    totals = [0.0] * plan.num_servers
    for placement, shards in zip(plan, loads, strict=True):
        for server, load in zip(placement.servers, shards, strict=True):
            totals[server] += load
    return totals


def find_hot(plan: Plan, requested: RequestedRows) -> HotServer | None:
    """Returns the server with the most load if it is hot: at `HOT` times the mean, and 1.5 times of two servers.

    Load is the bytes of the rows that steps requested. Dense variables are left out: a plan balances them by their
    size, which it knows.
    """
    loads = server_loads(plan, requested)
    total, most = sum(loads), max(loads)
    if requested.steps < _FEWEST_STEPS or not total or len(loads) == 1:
        return None
    ratio, server = most * len(loads) / total, loads.index(most)
    # A little less, because sums of floats may end just below a ratio that is exact.
    if ratio < (HOT if len(loads) > 2 else _HOT_OF_TWO) - 1e-6:
        return None
    parts = [(placement.spec.name, _load_on(server, placement, requested) / total) for placement in plan]
    tables = sorted((part for part in parts if part[1]), key=lambda part: -part[1])
    return HotServer(server, ratio, most / total, tuple(tables))


def _load_on(server: int, placement: Placement, requested: RequestedRows) -> float:
    pairs = zip(placement.servers, shard_loads(placement, requested), strict=True)
    return sum(load for on, load in pairs if on == server)
