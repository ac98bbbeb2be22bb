"""Moves rows of a plan from a hot server to the others, by the rows that steps have requested.

A plan is changed only where that helps, because each move is work for the next restore:

1. A table whose shards are asked very unevenly is routed by hash. If it already is, it gets other, more shards, over
   which its rows fall in another way.
2. A table on few servers that is more than half of a server's fair load is split over all of them.
3. Then shards move one by one from the server with the most load to the one with the least, until the largest load is
   near the mean.
"""

import dataclasses
from collections.abc import Sequence

from tfps.checks import check_integer, check_type
from tfps.errors import PlanError
from tfps.placement.model import Placement, Plan
from tfps.placement.planner import plan as make_plan
from tfps.placement.report import largest_to_mean
from tfps.placement.requested import RequestedRows, add_up, find_hot, shard_loads
from tfps.placement.routing import AnyRoutingKind, Routing
from tfps.placement.spec import LEAST_GROWING_BYTES, VariableSpec
from tfps.placement.traffic import draws_for

_EVEN = 1.2
"""Largest / mean up to which loads count as even."""
_SPLIT_FROM = 0.5
"""A table with more than this part of a server's fair load is split, and not moved whole."""
_SMALL_SHARD_ROWS = 32
"""A table is not split into shards with fewer rows: asking them costs more than they relieve."""
_SPREAD = 4
"""Shards on each server, and one more in all, of a table whose rows fall unevenly even by hash."""
_MOST_MOVES = 256


@dataclasses.dataclass(frozen=True)
class Rebalanced:
    """A plan with rows moved, and what that should do.

    Args:
        plan: the plan to follow from the next restore on; the plan before if nothing helps.
        before: the plan before.
        loads_before: bytes of rows that steps requested of each server, as counted, [num_servers].
        loads: the same as the new plan should have it.
    """

    plan: Plan
    before: Plan
    loads_before: tuple[float, ...]
    loads: tuple[float, ...]

    @property
    def moved(self) -> tuple[Placement, ...]:
        """The new placements of the tables that move."""
        if self.plan is self.before:
            return ()
        return tuple(new for new in self.plan if _is_elsewhere(self.before.find(new.spec.name), new))

    @property
    def largest_share(self) -> float:
        """The part of all load that the most loaded server should have, 0 to 1."""
        return max(self.loads) / (sum(self.loads) or 1.0)

    @property
    def ratio(self) -> float:
        """Largest load / mean that the new plan should have."""
        return largest_to_mean(self.loads)


def rebalance(plan: Plan, requested: RequestedRows) -> Rebalanced:
    """Moves rows away from a hot server; returns the same plan if no server is hot, or if no move would help.

    Args:
        plan: the plan that was followed while rows were counted.
        requested: the rows that steps requested.

    Raises:
        PlanError: an argument has another type.
    """
    check_type("plan", plan, Plan, "a Plan", error=PlanError)
    check_type("requested", requested, RequestedRows, "a RequestedRows", error=PlanError)
    before = [shard_loads(placement, requested) for placement in plan]
    loads_before = tuple(add_up(plan, before))
    same = Rebalanced(plan, plan, loads_before, loads_before)
    if find_hot(plan, requested) is None:
        return same
    fair = sum(loads_before) / plan.num_servers
    new = [_spread(*one, plan.num_servers, fair) for one in zip(plan, before, strict=True)]
    loads = [
        old if placement is kept else [sum(old) / len(placement.shards)] * len(placement.shards)
        for placement, kept, old in zip(new, plan, before, strict=True)
    ]
    moved = _move_shards(Plan(plan.num_servers, tuple(new)), loads)
    after = tuple(add_up(moved, loads))
    return same if max(after) >= max(loads_before) else Rebalanced(moved, plan, loads_before, after)


def plan_for(plan: Plan, requested: RequestedRows | None, num_servers: int) -> Plan:
    """Returns a plan of the same variables for another number of servers, by the rows that steps requested.

    Args:
        plan: the plan for the number of servers before.
        requested: the rows that steps requested; None if they were not counted.
        num_servers: the number of servers, at least 1.

    Raises:
        PlanError: an argument breaks its rule.
    """
    num_servers = check_integer("num_servers", num_servers, at_least=1, error=PlanError)
    if num_servers == plan.num_servers:
        return plan if requested is None else rebalance(plan, requested).plan
    return make_plan([_with_rows(placement, requested) for placement in plan], num_servers)


def _with_rows(placement: Placement, requested: RequestedRows | None) -> VariableSpec:
    rows = None if requested is None else requested.shards_of(placement)
    if requested is None or rows is None or not requested.steps:
        return placement.spec
    return dataclasses.replace(placement.spec, rows_per_step=draws_for(placement.spec, sum(rows) / requested.steps))


def _is_elsewhere(before: Placement, after: Placement) -> bool:
    return (before.servers, before.routing) != (after.servers, after.routing)


def _spread(placement: Placement, loads: Sequence[float], num_servers: int, fair: float) -> Placement:
    """Returns a placement that divides the load of a table evenly; the same one if it need not or cannot.

    Args:
        placement: the table; a dense variable stays as it is.
        loads: the load of each of its shards.
        num_servers: the number of servers.
        fair: the load that each server would have if all had the same.
    """
    spec, shards, total = placement.spec, len(placement.shards), sum(loads)
    if not spec.is_table or placement.routing is None or total < _SPLIT_FROM * fair:
        return placement
    # Example: 2 of 4 servers have all shards of a table; more shards would relieve them.
    is_even = largest_to_mean(loads) <= _EVEN
    if is_even and len(set(placement.servers)) == num_servers:
        return placement
    kind: AnyRoutingKind = "key" if spec.growing else "hash"
    wanted = num_servers
    if not is_even and placement.routing.kind == kind and shards >= num_servers:
        wanted = _SPREAD * num_servers + 1
    most = spec.nbytes // LEAST_GROWING_BYTES if spec.growing else spec.rows // _SMALL_SHARD_ROWS
    # One shard may have more load than all of them had: its rows are few, and cannot be divided.
    if wanted > most or (placement.routing.kind, shards) == (kind, wanted):
        return placement
    servers = [shard % num_servers for shard in range(wanted)]
    return Placement.on(spec, servers, Routing(kind, spec.rows, wanted))


def _move_shards(plan: Plan, loads: Sequence[Sequence[float]]) -> Plan:
    """Moves shards from the server with the most load to that with the least, as long as that helps.

    Args:
        plan: the plan.
        loads: the load of each shard of each placement.
    """
    servers = [list(placement.servers) for placement in plan]
    memory = [[shard.rows * placement.spec.row_bytes for shard in placement.shards] for placement in plan]
    totals = add_up(plan, loads)
    stored = add_up(plan, memory)
    # A server may not get fuller than the fullest one is, or than a fifth above the mean.
    room = max(max(stored), _EVEN * sum(stored) / plan.num_servers)
    for _ in range(_MOST_MOVES):
        source, target = totals.index(max(totals)), totals.index(min(totals))
        gap = totals[source] - totals[target]
        movable = [
            (abs(load - gap / 2), place, shard)
            for place, shards in enumerate(loads)
            for shard, load in enumerate(shards)
            if servers[place][shard] == source and 0 < load < gap and stored[target] + memory[place][shard] <= room
        ]
        if largest_to_mean(totals) <= _EVEN or not movable:
            break
        # Half of the gap would make both equal.
        _, place, shard = min(movable)
        servers[place][shard] = target
        for values, size in ((totals, loads[place][shard]), (stored, memory[place][shard])):
            values[source] -= size
            values[target] += size
    placed = [Placement.on(old.spec, new, old.routing) for old, new in zip(plan, servers, strict=True)]
    return Plan(plan.num_servers, tuple(placed))
